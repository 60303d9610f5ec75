"""Report of a run: what it reached, and plots of its curve, as `report.md` and `report.html`."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from models.html_report import write_reports
from models.training.curve_plot import COLOURS, curve_plot
from models.training.run_logger import CURVE

PLOTS = "plots"
# Plots, and the beginnings of the figures in them.
GROUPS = {
    "Loss": ("loss", "validation_loss"),
    "Average precision on validation pictures": ("validation_ap", "validation_ap50", "any_label_ap50", "quiet_recall"),
    "Average precision of labels": ("ap/",),
    "Accuracy on validation pictures": ("validation_top1", "validation_top5"),
    "Learning rate": ("rate",),
}
# The figures that tell whether a run made its start worse, the first that there is.
JUDGED = ("validation_ap", "validation_top1", "validation_image_to_text", "validation_loss")


def write_run_report(folder: Path, name: str, about: Mapping[str, str]) -> str | None:
    """Write the report of the run in `folder`, from its curve; nothing where it has none.

    Returns a warning, which the report has too, if the run ended worse than its start.
    """
    rows = _rows(folder / CURVE)
    if not rows:
        return None
    (folder / PLOTS).mkdir(exist_ok=True)
    start, last, best = _reached(rows)
    warning = _worse(start, last)
    lines = [f"# Training of {name}", "", *(f"- {key}: {_escaped(value)}" for key, value in about.items()), ""]
    lines += [f"**{warning}**", ""] if warning else []
    lines += ["| figure | start | last | best |", "| --- | --- | --- | --- |"]
    for figure in last:
        first = f"{start[figure]:.4g}" if figure in start else ""
        lines.append(f"| {_escaped(figure)} | {first} | {last[figure]:.4g} | {best[figure]:.4g} |")
    lines.append("")
    for title, wanted in GROUPS.items():
        curves = {name: curve for name in last if _is_of(name, wanted) and (curve := _curve(rows, name))}
        shown = dict(sorted(curves.items(), key=lambda item: -len(item[1]))[: len(COLOURS)])
        if shown:
            file = Path(PLOTS) / f"{title.lower().replace(' ', '-')}.svg"
            (folder / file).write_text(curve_plot(title, shown), encoding="utf-8")
            lines += [f"![{title}]({file.as_posix()})", ""]
    write_reports(folder, "\n".join(lines))
    return warning


def _rows(curve: Path) -> list[dict[str, float]]:
    if not curve.is_file():
        return []
    return [json.loads(line) for line in curve.read_text(encoding="utf-8").splitlines()]


def _reached(rows: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Each figure at the start, its last value and the best that steps gave: the least of a loss, else the greatest."""
    start: dict[str, float] = {}
    last: dict[str, float] = {}
    best: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if not any(_is_of(name, wanted) for wanted in GROUPS.values()):
                continue
            if row["step"] == 0:
                start[name] = value
            else:
                last[name], best[name] = value, _better(name)(value, best.get(name, value))
    return start, last, best


def _better(name: str) -> Callable[..., float]:
    return min if "loss" in name else max


def _worse(start: Mapping[str, float], last: Mapping[str, float]) -> str | None:
    name = next((name for name in JUDGED if name in start and name in last), None)
    if name is None or _better(name)(start[name], last[name]) == last[name]:
        return None
    fall = f"{name.replace('_', ' ')} {last[name]:.4g}, at the start {start[name]:.4g}"
    return f"The run ended worse than its start: {fall}. Lower learning_rate, freeze more parts, or take more data."


def _is_of(name: str, wanted: tuple[str, ...]) -> bool:
    return any(name == one or (one.endswith("/") and name.startswith(one)) for one in wanted)


def _curve(rows: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    return [(row["step"], row[name]) for row in rows if name in row]


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
