"""Checks of annotated boxes, the same for every format."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.data.images import DataError
from models.data.records import Float32


def box_of(values: Any, where: str) -> tuple[float, float, float, float]:
    """Four finite numbers; DataError names the record where they are none."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 4:
        raise DataError(f"{where}: a box is {values!r}; four numbers are expected")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        raise DataError(f"{where}: a box is {list(values)!r}; four finite numbers are expected")
    x0, y0, x1, y1 = (float(value) for value in values)
    return x0, y0, x1, y1


def size_of(entry: dict[str, Any], where: str) -> tuple[int, int] | None:
    """(height, width) of an entry that has both; None where it has neither."""
    height, width = entry.get("height"), entry.get("width")
    if height is None and width is None:
        return None
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise DataError(f"{where}: height is {height!r} and width {width!r}; two positive integers are expected")
    return height, width


def within(boxes_xyxy: Float32, size: tuple[int, int]) -> tuple[Float32, np.ndarray]:
    """Boxes [M, 4] cut to a picture of (height, width) `size`, and which of them [M] bool still have an area there."""
    height, width = size
    cut = np.clip(boxes_xyxy, 0, np.asarray([width, height, width, height], np.float32)).astype(np.float32)
    return cut, (cut[:, 2] > cut[:, 0]) & (cut[:, 3] > cut[:, 1])


def as_array(boxes: Sequence[Sequence[float]]) -> Float32:
    """Boxes as an array [M, 4]."""
    return np.asarray(boxes, np.float32).reshape(-1, 4)
