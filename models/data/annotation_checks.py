"""Checks of annotated boxes, image sizes and phrase spans, the same for every format."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from models.data.images import DataError
from models.data.records import Float32


def checked_box(values: Any, where: str) -> tuple[float, float, float, float]:
    """Return four finite numbers; DataError names the record where they are something else."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != 4:
        raise DataError(f"{where}: a box is {values!r}; four numbers are expected")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values):
        raise DataError(f"{where}: a box is {list(values)!r}; four finite numbers are expected")
    x0, y0, x1, y1 = (float(value) for value in values)
    return x0, y0, x1, y1


def checked_size(entry: dict[str, Any], where: str) -> tuple[int, int] | None:
    """Return (height, width) of an entry that has both, None for one that has neither."""
    height, width = entry.get("height"), entry.get("width")
    if height is None and width is None:
        return None
    if not (isinstance(height, int) and isinstance(width, int) and height > 0 and width > 0):
        raise DataError(f"{where}: height is {height!r} and width {width!r}; two positive integers are expected")
    return height, width


def clip_boxes(boxes_xyxy: Float32, size: tuple[int, int]) -> tuple[Float32, np.ndarray]:
    """Clip boxes [M, 4] to a picture of (height, width) `size`; also returns a mask [M] of those with an area left."""
    height, width = size
    clipped = np.clip(boxes_xyxy, 0, np.asarray([width, height, width, height], np.float32)).astype(np.float32)
    return clipped, (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])


def box_array(boxes: Sequence[Sequence[float]]) -> Float32:
    """Boxes as an array [M, 4]."""
    return np.asarray(boxes, np.float32).reshape(-1, 4)


def checked_spans(spans: Any, caption: str, where: str) -> tuple[tuple[int, int], ...]:
    """Return character spans [start, end) that lie in `caption`; DataError names the record where they do not."""
    try:
        pairs = tuple((int(start), int(end)) for start, end in spans)
    except (TypeError, ValueError):
        raise DataError(f"{where}: tokens_positive is {spans!r}; a list of [start, end) is expected") from None
    if not pairs:
        raise DataError(f"{where}: tokens_positive is empty")
    for start, end in pairs:
        if not 0 <= start < end <= len(caption):
            raise DataError(f"{where}: tokens_positive has [{start}, {end}), the caption has {len(caption)} characters")
    return pairs


def find_phrase(phrase: str, caption: str, where: str) -> tuple[tuple[int, int], ...]:
    """Find the first span in `caption` that is `phrase` as whole words, in any case; DataError where there is none."""
    match = re.search(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", caption, re.IGNORECASE)
    if match is None or not phrase.strip():
        raise DataError(f"{where}: the phrase {phrase!r} is not in the caption {caption!r}")
    return ((match.start(), match.end()),)
