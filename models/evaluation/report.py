"""The report of an evaluation: `report.json`, `report.md`, plots and example pictures, in one folder."""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.data.images import BrokenPicture
from models.evaluation.metrics import Example, Result
from models.evaluation.plots import write_plot
from server.inference.drawing import draw

REPORT, MARKDOWN, PICTURES = "report.json", "report.md", "pictures"


@dataclass(frozen=True)
class Section:
    """A measure's part: what came out, of how many questions, in how many seconds of asking; `left_out`: why."""

    name: str
    model: str
    result: Result
    questions: int
    seconds: float
    left_out: Sequence[str]


def write_report(folder: Path, about: dict[str, Any], sections: Sequence[Section]) -> None:
    """Write all of it into `folder`."""
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    data = {
        **about,
        "figures": {one.name: {name: _known(value) for name, value in one.result.figures.items()} for one in sections},
        "questions": {one.name: one.questions for one in sections},
        "left_out": {one.name: list(one.left_out) for one in sections},
        "details": {one.name: one.result.details for one in sections},
    }
    (folder / REPORT).write_text(json.dumps(data, indent=1, default=float) + "\n", encoding="utf-8")
    lines = ["# Evaluation", "", *(f"- {name}: {_text(value)}" for name, value in about.items()), ""]
    lines += [table(sections), ""]
    for section in sections:
        lines += _section(section, folder)
    (folder / MARKDOWN).write_text("\n".join(lines), encoding="utf-8")


def table(sections: Sequence[Section]) -> str:
    """All figures as Markdown."""
    rows = [
        f"| {one.name} | {name} | {_number(value)} | {one.questions} |"
        for one in sections
        for name, value in one.result.figures.items()
    ]
    return "\n".join(["| measure | figure | value | questions |", "| --- | --- | --- | --- |", *rows])


def _section(section: Section, folder: Path) -> list[str]:
    pace = f", {section.questions / section.seconds:.1f} a second" if section.seconds > 0 else ""
    lines = [f"## {section.name[:1].upper()}{section.name[1:]}", ""]
    lines += [f"{section.questions} questions to {section.model}{pace}.", ""]
    if section.left_out:
        lines += [f"Left out as faulty: {len(section.left_out)}, the first {section.left_out[0]}.", ""]
    for note in section.result.notes:
        lines += [note, ""]
    for title, head, rows in section.result.tables:
        if rows:
            lines += [f"{title}:", "", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
            lines += [f"| {' | '.join(_cell(value) for value in row)} |" for row in rows] + [""]
    for plot in section.result.plots:
        file = Path(PICTURES) / f"{section.name}-{plot.name}.png"
        write_plot(plot, folder / file)
        lines += [f"![{plot.title}]({file.as_posix()})"]
    lines += [""] if section.result.plots else []
    for number, example in enumerate(section.result.examples):
        file = Path(PICTURES) / f"{section.name}-{example.kind.replace(' ', '-')}-{number}.png"
        if _draw(example, folder / file):
            text = f"{example.kind}: {example.text} ({example.question.where})"
            lines += [f"![{_escaped(text)}]({file.as_posix()})", "", _escaped(text), ""]
    return lines


def _draw(example: Example, file: Path) -> bool:
    """Whether the picture could be drawn: it may be gone since it was asked about."""
    try:
        image = example.question.picture.open(example.question.size)
    except BrokenPicture:
        return False
    file.write_bytes(draw(image, example.boxes))
    return True


def _known(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value


def _number(value: float) -> str:
    if math.isnan(value):
        return "none"
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _cell(value: Any) -> str:
    return _escaped(value) if isinstance(value, str) else _number(value)


def _text(value: Any) -> str:
    return _escaped(value if isinstance(value, str) else json.dumps(value))


def _escaped(text: str) -> str:
    """A text that may come from a data set, as Markdown shows it literally on one line."""
    return re.sub(r"([\\`*_\[\]<>|#!])", r"\\\1", " ".join(text.split()))
