"""What a data set says about a picture, in one form for all formats. Boxes are x0, y0, x1, y1 in pixels."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from models.data.images import Picture

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class DetectionRecord:
    """A picture in which all objects of some categories are boxed.

    boxes_xyxy [M, 4]; labels [M], places in `names`, the categories of the whole set; size (height, width) of the
    picture the boxes are for, where the set tells it; `absent`: the places in `names` known not to be in the picture,
    or None where that is all without a box. `where` names file and record for messages.
    """

    picture: Picture
    boxes_xyxy: Float32
    labels: Int64
    names: tuple[str, ...]
    where: str
    size: tuple[int, int] | None = None
    absent: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Region:
    """What a phrase of a caption names: the phrase's characters, as [start, end) spans, and its boxes [K, 4]."""

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


@dataclass(frozen=True)
class CaptionRecord:
    """A picture and what was written about it: one text or several to choose from."""

    picture: Picture
    captions: tuple[str, ...]
    where: str


Record = DetectionRecord | GroundingRecord | CaptionRecord


class RecordSet(Protocol):
    """Records that can be had in any order."""

    @property
    def name(self) -> str:
        """What messages call the set: its file or folder."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Record: ...
