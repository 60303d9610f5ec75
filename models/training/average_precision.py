"""Average precision at one IoU by COCO's rules: greedy matching, 101 recall points, mean over labels.

The reference is pycocotools cocoeval.py.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from server.contract.postprocess import iou_matrix

RECALLS = np.linspace(0, 1, 101)
ANY_LABEL = ""


@dataclass(frozen=True)
class Truth:
    """An object in a picture; box x0, y0, x1, y1 in pixels."""

    picture: int
    label: str
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Found:
    """A detection in a picture; box x0, y0, x1, y1 in pixels."""

    picture: int
    label: str
    box: tuple[float, float, float, float]
    score: float


def mean_average_precision(
    truths: Sequence[Truth], found: Sequence[Found], *, iou: float = 0.5, by_label: bool = True
) -> float:
    """Mean over the labels that occur of each label's average precision.

    Without `by_label` all boxes count as one label. NaN where there is no object at all.
    """
    wanted: dict[str, list[Truth]] = defaultdict(list)
    answered: dict[str, list[Found]] = defaultdict(list)
    for truth in truths:
        wanted[truth.label if by_label else ANY_LABEL].append(truth)
    for detection in found:
        answered[detection.label if by_label else ANY_LABEL].append(detection)
    if not wanted:
        return float("nan")
    return float(np.mean([average_precision(wanted[label], answered[label], iou=iou) for label in wanted]))


def average_precision(truths: Sequence[Truth], found: Sequence[Found], *, iou: float) -> float:
    """Average precision of detections of one label, all pictures together."""
    hits = [hit for _, hit in matched(truths, found, iou=iou)]
    recall = np.cumsum(hits) / len(truths)
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    best_from_here = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return float(np.mean([best_from_here[place] if place < len(hits) else 0.0 for place in places]))


def matched(truths: Sequence[Truth], found: Sequence[Found], *, iou: float) -> list[tuple[Found, bool]]:
    """Detections of one label, best first, each with whether it matches an object that no better one has taken."""
    found = sorted(found, key=lambda detection: -detection.score)
    boxes: dict[int, list[tuple[float, float, float, float]]] = defaultdict(list)
    for truth in truths:
        boxes[truth.picture].append(truth.box)
    free = {picture: np.ones(len(group), np.bool_) for picture, group in boxes.items()}
    hits = [False] * len(found)
    for row, detection in enumerate(found):
        if detection.picture not in boxes:
            continue
        overlap = iou_matrix(np.asarray([detection.box], np.float32), np.asarray(boxes[detection.picture], np.float32))[
            0
        ]
        overlap[~free[detection.picture]] = -1
        best = int(overlap.argmax())
        if overlap[best] >= iou:
            hits[row], free[detection.picture][best] = True, False
    return list(zip(found, hits, strict=True))
