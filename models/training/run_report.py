"""Report of a run: what it reached, and plots of its curve, as `report.md` and `report.html`."""

import json
from collections.abc import Mapping
from pathlib import Path

from models.html_report import write_reports
from models.training.run_logger import CURVE
from openset.curve_plot import COLOURS, curve_plot

PLOTS = "plots"
# Plots, and the beginnings of the figures in them.
GROUPS = {
    "Loss": ("loss", "validation_loss"),
    "Average precision on validation pictures": ("validation_ap", "validation_ap50", "any_label_ap50", "quiet_recall"),
    "Average precision of labels": ("ap/",),
    "Accuracy on validation pictures": ("validation_top1", "validation_top5"),
    "Learning rate": ("rate",),
}


def write_run_report(folder: Path, name: str, about: Mapping[str, str]) -> None:
    """Write the report of the run in `folder`, from its curve; nothing where it has none."""
    rows = _rows(folder / CURVE)
    if not rows:
        return
    (folder / PLOTS).mkdir(exist_ok=True)
    last, best = _reached(rows)
    lines = [f"# Training of {name}", "", *(f"- {key}: {_escaped(value)}" for key, value in about.items()), ""]
    lines += ["| figure | last | best |", "| --- | --- | --- |"]
    lines += [f"| {_escaped(figure)} | {last[figure]:.4g} | {best[figure]:.4g} |" for figure in last]
    lines.append("")
    for title, wanted in GROUPS.items():
        curves = {name: curve for name in last if _is_of(name, wanted) and (curve := _curve(rows, name))}
        shown = dict(sorted(curves.items(), key=lambda item: -len(item[1]))[: len(COLOURS)])
        if shown:
            file = Path(PLOTS) / f"{title.lower().replace(' ', '-')}.svg"
            (folder / file).write_text(curve_plot(title, shown), encoding="utf-8")
            lines += [f"![{title}]({file.as_posix()})", ""]
    write_reports(folder, "\n".join(lines))


def _rows(curve: Path) -> list[dict[str, float]]:
    if not curve.is_file():
        return []
    return [json.loads(line) for line in curve.read_text(encoding="utf-8").splitlines()]


def _reached(rows: list[dict[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """The last value and the best of each figure: the least of a loss, the greatest of others."""
    last: dict[str, float] = {}
    best: dict[str, float] = {}
    for row in rows:
        for name, value in row.items():
            if any(_is_of(name, wanted) for wanted in GROUPS.values()):
                choose = min if "loss" in name else max
                last[name], best[name] = value, choose(value, best.get(name, value))
    return last, best


def _is_of(name: str, wanted: tuple[str, ...]) -> bool:
    return any(name == one or (one.endswith("/") and name.startswith(one)) for one in wanted)


def _curve(rows: list[dict[str, float]], name: str) -> list[tuple[float, float]]:
    return [(row["step"], row[name]) for row in rows if name in row]


def _escaped(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
