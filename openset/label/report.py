"""Report of a job: what was found of each label, pictures without anything, pictures that failed."""

from collections import Counter
from pathlib import Path
from statistics import median

from openset.label.formats import Labelled
from openset.sources import printable

MAX_LISTED = 200


def write_report(labelled: Labelled, folder: Path, *, options: dict[str, str], written: list[Path]) -> Path:
    """`report.md`."""
    pictures, empty, failed = 0, [], []
    scores: dict[str, list[float]] = {name: [] for name in labelled.categories.values()}
    within: Counter[str] = Counter()
    for each in labelled.log.read():
        if each.error is not None:
            failed.append(f"| {_cell(each.image)} | {_cell(each.error)} |")
            continue
        pictures += 1
        if not each.detections:
            empty.append(f"- {_cell(each.image)}")
        within.update({found.label for found in each.detections})
        for found in each.detections:
            scores[found.label].append(found.score)
    boxes = sum(map(len, scores.values()))
    lines = [
        "# Labels",
        "",
        f"{pictures} pictures, {boxes} boxes; {len(empty)} pictures without a box, {len(failed)} unreadable.",
        f"Model: {labelled.model}. Pictures below: `{printable(labelled.root)}`.",
        "",
        *(f"- {name}: {value}" for name, value in options.items()),
        "",
        "| label | boxes | pictures | least score | median | best |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_label_row(name, found, within[name]) for name, found in scores.items()),
        "",
        f"Written: {', '.join(f'`{path.relative_to(folder)}`' for path in written)}. Nobody has reviewed these boxes.",
    ]
    if failed:
        lines += ["", "## Could not be read", "", "| picture | reason |", "| --- | --- |", *_listed(sorted(failed))]
    if empty:
        lines += ["", "## Without a box", "", *_listed(sorted(empty))]
    target = folder / "report.md"
    target.write_text("\n".join(lines) + "\n", "utf-8")
    return target


def _label_row(name: str, scores: list[float], pictures: int) -> str:
    if not scores:
        return f"| {_cell(name)} | 0 | 0 | | | |"
    figures = " | ".join(f"{value:.2f}" for value in (min(scores), median(scores), max(scores)))
    return f"| {_cell(name)} | {len(scores)} | {pictures} | {figures} |"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())


def _listed(lines: list[str]) -> list[str]:
    rest = len(lines) - MAX_LISTED
    return lines[:MAX_LISTED] + ([f"- and {rest} more, in `results.jsonl`"] if rest > 0 else [])
