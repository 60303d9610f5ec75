"""Annotated records in one form for all formats. Boxes are x0, y0, x1, y1 in pixels.

`where` names the file and the record for messages. A `finished` picture is drawn as the model is to see it: it is
neither resized nor augmented.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from models.data.faults import Faults
from models.data.images import Picture

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DetectionRecord:
    """A picture in which all objects of some categories are boxed.

    boxes_xyxy [M, 4]; labels [M], indices into `names`, the categories of the whole set; size (height, width) of the
    annotated picture, if the set gives it; `absent`: indices into `names` known not to be in the picture, or None if
    those are all without a box.
    """

    picture: Picture
    boxes_xyxy: Float32
    labels: Int64
    names: tuple[str, ...]
    where: str
    size: tuple[int, int] | None = None
    absent: tuple[int, ...] | None = None
    finished: bool = False


@dataclass(frozen=True, eq=False)
class Region:
    """A phrase of a caption, as character spans [start, end), and its boxes [K, 4]: none where it is untrue."""

    spans: tuple[tuple[int, int], ...]
    boxes_xyxy: Float32


@dataclass(frozen=True, eq=False)
class GroundingRecord:
    """A picture with a caption, phrases of which are boxed."""

    picture: Picture
    caption: str
    regions: tuple[Region, ...]
    where: str
    size: tuple[int, int] | None = None
    finished: bool = False


@dataclass(frozen=True)
class CaptionRecord:
    """A picture and its caption, or several captions to choose from."""

    picture: Picture
    captions: tuple[str, ...]
    where: str
    finished: bool = False


@dataclass(frozen=True)
class ClassificationRecord:
    """A picture of one category: `label` is an index into `names`, the categories of the whole set."""

    picture: Picture
    label: int
    names: tuple[str, ...]
    where: str
    finished: bool = False


Record = DetectionRecord | GroundingRecord | CaptionRecord | ClassificationRecord


class RecordSet(Protocol):
    """A set of records with random access, and the faults found in reading it."""

    faults: Faults

    @property
    def name(self) -> str:
        """The set's file or folder, for messages."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...


@runtime_checkable
class RecordGenerator(Protocol):
    """Records made on demand, without end."""

    @property
    def name(self) -> str:
        """The set's name in messages."""

    def generate(self, number: int, *, seed: int, total: float) -> Record:
        """Make the record of a number, always the same for a seed; `total`: records in the run, 0 outside of one."""
