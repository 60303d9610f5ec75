"""Interfaces of an evaluation: queries about images, metrics over their answers, results with plots and examples."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from models.data.images import DataError, Picture, PictureBytes, PictureFile
from models.evaluation.backends import Backend, Model
from server.contract.manifest import Task
from server.contract.postprocess import Detection

Float64 = npt.NDArray[np.float64]
MAX_EXAMPLES = 4  # example images of a kind in a report


@dataclass(frozen=True, eq=False)
class Query:
    """An image and the texts to compare it with or to detect in it.

    `source` names the record in error messages; `size` is the annotated (height, width); `target` is the ground truth
    in the form that the metric expects; a `fault` keeps the query from being asked.
    """

    image: Picture
    source: str
    texts: tuple[str, ...]
    size: tuple[int, int] | None = None
    target: Any = None
    fault: DataError | None = None

    def image_bytes(self) -> bytes:
        """The encoded image to send; DataError where the record is faulty, the image unreadable or of another size.

        The file unchanged, but where EXIF says to rotate it and the annotation is of the stored pixels, those as PNG: a
        server would rotate the file.
        """
        if self.fault is not None:
            raise self.fault
        upright = self.image.open()
        if self.size in (None, (upright.height, upright.width)):
            return _stored_bytes(self.image)
        pixels = self.image.open(self.size)
        stream = io.BytesIO()
        pixels.save(stream, "PNG", compress_level=1, exif=b"")
        return stream.getvalue()


@dataclass(frozen=True)
class QuerySet:
    """Queries of one metric: `count` at most; each call of `draw` iterates over them anew, in the same order."""

    count: int
    draw: Callable[[], Iterator[Query]]


@dataclass(frozen=True)
class EvaluationSet:
    """Query sets by metric, the label names of the set, and the number of faulty entries left out of it by kind.

    found_by_model: whether the boxes seem to be a model's, which tells nothing about truth.
    """

    name: str
    queries: Mapping[str, QuerySet]
    labels: tuple[str, ...] = ()
    faults: Mapping[str, int] = field(default_factory=dict)
    found_by_model: bool = False


@dataclass(frozen=True, eq=False)
class Plot:
    """Named lines of x and y, or a bar chart; `diagonal` adds the line of perfect calibration."""

    name: str
    title: str
    x: str
    y: str
    lines: Mapping[str, tuple[Float64, Float64]]
    bars: bool = False
    diagonal: bool = False


@dataclass(frozen=True, eq=False)
class ExampleImage:
    """An image for the report, of a kind such as "misses", with boxes to draw and a caption."""

    kind: str
    query: Query
    boxes: Sequence[Detection]
    caption: str


@dataclass(frozen=True)
class MetricResult:
    """Figures by name; `tables` (title, head, rows) are for the Markdown report, `details` for the JSON report."""

    figures: dict[str, float]
    notes: tuple[str, ...] = ()
    plots: tuple[Plot, ...] = ()
    examples: tuple[ExampleImage, ...] = ()
    tables: tuple[tuple[str, tuple[str, ...], list[tuple[Any, ...]]], ...] = ()
    details: dict[str, Any] = field(default_factory=dict)


class Metric(Protocol):
    """Accumulates the answers to one kind of query."""

    name: str
    task: Task

    def ask(self, backend: Backend, query: Query, image: bytes) -> Any:
        """The backend's answer in a form that JSON can hold, but no bare string."""

    def add(self, query: Query, answer: Any) -> None:
        """Accumulate one answer."""

    def result(self, model: Model) -> MetricResult:
        """The result over all answers."""


def labelled_box(box: Sequence[float], label: str, label_id: int, score: float) -> Detection:
    """A box x0, y0, x1, y1 to draw on an example image."""
    x0, y0, x1, y1 = (float(side) for side in box)
    return Detection((x0, y0, x1, y1), label, label_id, float(score), ())


def mean_or_nan(values: npt.NDArray[Any]) -> float:
    """The mean as a float; NaN for no value."""
    return float(values.mean()) if len(values) else float("nan")


def _stored_bytes(image: Picture) -> bytes:
    if isinstance(image, PictureBytes):
        return image.data
    assert isinstance(image, PictureFile), "images are files or members of archives"
    return image.read()
