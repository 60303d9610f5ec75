"""Report of an evaluation: `report.json`, `report.md`, `report.html`, plots and example images, in one folder."""

import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # renders without a display
from matplotlib.figure import Figure

from models.data.faults import counts_text
from models.data.images import BrokenPicture
from models.evaluation.metrics import ExampleImage, MetricResult, Plot, Query
from models.evaluation.query_runner import LeftOut
from models.html_report import write_reports
from server.inference.drawing import Mark, draw

REPORT, MARKDOWN, IMAGES = "report.json", "report.md", "pictures"


@dataclass(frozen=True)
class Section:
    """The report of one metric: its result, the number of queries, the seconds they took, and faults left out."""

    name: str
    model: str
    result: MetricResult
    queries: int
    seconds: float
    left_out: Sequence[LeftOut]

    @property
    def by_kind(self) -> dict[str, int]:
        """The number of faults of each kind."""
        return dict(Counter(fault.kind for fault in self.left_out))


def write_report(folder: Path, about: dict[str, Any], sections: Sequence[Section]) -> None:
    """Write all files of the report into `folder`."""
    (folder / IMAGES).mkdir(parents=True, exist_ok=True)
    data = {
        **about,
        "figures": {section.name: _json_figures(section.result.figures) for section in sections},
        "questions": {section.name: section.queries for section in sections},
        "left_out": {section.name: [fault.reason for fault in section.left_out] for section in sections},
        "left_out_by_kind": {section.name: section.by_kind for section in sections},
        "details": {section.name: section.result.details for section in sections},
    }
    (folder / REPORT).write_text(json.dumps(data, indent=1, default=float) + "\n", encoding="utf-8")
    lines = ["# Evaluation", "", *(f"- {name}: {_text(value)}" for name, value in about.items()), ""]
    lines += [figures_table(sections), ""]
    for section in sections:
        lines += _section(section, folder)
    write_reports(folder, "\n".join(lines))


def figures_table(sections: Sequence[Section]) -> str:
    """Markdown table of all figures."""
    rows = [
        f"| {section.name} | {name} | {_number(value)} | {section.queries} |"
        for section in sections
        for name, value in section.result.figures.items()
    ]
    return "\n".join(["| measure | figure | value | questions |", "| --- | --- | --- | --- |", *rows])


def _section(section: Section, folder: Path) -> list[str]:
    rate = f", {section.queries / section.seconds:.1f} a second" if section.seconds > 0 else ""
    lines = [f"## {section.name[:1].upper()}{section.name[1:]}", ""]
    lines += [f"{section.queries} questions to {section.model}{rate}.", ""]
    if section.left_out:
        kinds, first = counts_text(section.by_kind), _escaped(section.left_out[0].reason)
        lines += [f"Left out as faulty: {len(section.left_out)} ({kinds}), the first {first}.", ""]
    for note in section.result.notes:
        lines += [note, ""]
    for title, head, rows in section.result.tables:
        if rows:
            lines += [f"{title}:", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
            lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows] + [""]
    for plot in section.result.plots:
        file = Path(IMAGES) / f"{section.name}-{plot.name}.png"
        _write_plot(plot, folder / file)
        lines += [f"![{plot.title}]({file.as_posix()})"]
    lines += [""] if section.result.plots else []
    for number, example in enumerate(section.result.examples):
        file = Path(IMAGES) / f"{section.name}-{example.kind.replace(' ', '-')}-{number}.png"
        if _write_example(example, folder / file):
            text = f"{example.kind}: {example.caption} ({_place(example.query)})"
            lines += [f"![{_escaped(text)}]({file.as_posix()})", "", _escaped(text), ""]
    return lines


def _write_plot(plot: Plot, file: Path) -> None:
    """Render a plot as PNG; its axes range from 0 to 1, except for the counts of a bar chart."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    for name, (x, y) in plot.lines.items():
        if plot.bars:
            width = float(x[1] - x[0]) if len(x) > 1 else 1.0
            axes.bar(x, y, width=width, align="edge", alpha=0.6, label=name)
        else:
            axes.plot(x, y, marker="o" if plot.diagonal else None, label=name)
    if plot.diagonal:
        axes.plot([0, 1], [0, 1], linestyle=":", color="grey", label="calibrated")
    axes.set(title=plot.title, xlabel=plot.x, ylabel=plot.y, xlim=(0, 1))
    if plot.bars:
        axes.set_yscale("symlog")
    else:
        axes.set_ylim(0, 1.02)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=120)


def _write_example(example: ExampleImage, file: Path) -> bool:
    """Draw an example's boxes on its image; False where the image has become unreadable since the query."""
    try:
        image = example.query.image.open(example.query.size)
    except BrokenPicture:
        return False
    file.write_bytes(draw(image, [Mark(box.box, box.label, box.label_id, box.score) for box in example.boxes]))
    return True


def _place(query: Query) -> str:
    """The record of a query, and the picture's file where the record does not name it."""
    file = Path(query.image.where).name
    return query.source if file in query.source else f"{file}, {query.source}"


def _json_figures(figures: dict[str, float]) -> dict[str, float | None]:
    """Figures with NaN, which JSON lacks, as None."""
    return {name: None if math.isnan(value) else value for name, value in figures.items()}


def _number(value: float) -> str:
    if math.isnan(value):
        return "none"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _cell(value: Any) -> str:
    return _escaped(value) if isinstance(value, str) else _number(value)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        value = counts_text(value)
    return _escaped(value if isinstance(value, str) else ", ".join(map(str, value))) or "none"


def _escaped(text: str) -> str:
    """Escape text of a data set, so that Markdown shows it literally on one line."""
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", " ".join(text.split()))
