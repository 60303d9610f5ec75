"""What a measure is: questions about pictures, how each is asked, and what all answers come to."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.data.images import Picture
from models.evaluation.backends import Backend
from server.contract.manifest import Task
from server.contract.postprocess import Detection

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Question:
    """A picture and the texts it is asked for or compared with; `truth` is the measure's own. `where`: the record."""

    picture: Picture
    where: str
    texts: tuple[str, ...]
    size: tuple[int, int] | None = None
    truth: Any = None


@dataclass(frozen=True, eq=False)
class Plot:
    """Lines, or with `bars` steps, of x and y by name; `diagonal`: where a calibrated model would lie."""

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, tuple[Float64, Float64]]
    bars: bool = False
    diagonal: bool = False


@dataclass(frozen=True, eq=False)
class Example:
    """A picture to look at: of a kind like "misses", with boxes to draw and a line to say below it."""

    kind: str
    question: Question
    boxes: Sequence[Detection]
    text: str


@dataclass(frozen=True)
class Result:
    """Figures by name; `details` go into the JSON report only, `tables` (title, head, rows) into the Markdown too."""

    figures: dict[str, float]
    notes: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    examples: tuple[Example, ...] = ()
    tables: tuple[tuple[str, tuple[str, ...], list[tuple[Any, ...]]], ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


class Measure(Protocol):
    """One kind of question about a set."""

    name: str
    task: Task

    def __len__(self) -> int: ...

    def questions(self) -> Iterator[Question]:
        """In an order that is always the same."""

    def ask(self, served: Backend, question: Question, picture: bytes) -> Any:
        """The answer, as JSON can hold it."""

    def add(self, question: Question, answer: Any) -> None:
        """Take an answer, or None where the picture was left out as faulty."""

    def result(self, served: Backend) -> Result:
        """What the answers come to."""


def box_and_label(box: Sequence[float], label: str, label_id: int, score: float) -> Detection:
    """A box to draw."""
    x0, y0, x1, y1 = (float(side) for side in box)
    return Detection((x0, y0, x1, y1), label, label_id, float(score), ())
