"""Average precision at one IoU, and which detections are right, by COCO's evaluator."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.evaluation.coco_evaluator import CocoEvaluation, GroundTruthBox


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
    return _evaluation(truths, found, iou=iou, by_label=by_label)[0].average_precision()


def matched(truths: Sequence[Truth], found: Sequence[Found], *, iou: float) -> list[tuple[Found, bool]]:
    """Detections of one label, best first, each with whether it matches an object that no better one has taken."""
    evaluation, by_picture = _evaluation(truths, found, iou=iou, by_label=False)
    matches = evaluation.matches()
    rows = [
        (by_picture[int(picture)][int(row)], bool(hit))
        for (picture, row, _), hit in zip(matches.found, matches.hit, strict=True)
    ]
    return sorted(rows, key=lambda row: -row[0].score)


def _evaluation(
    truths: Sequence[Truth], found: Sequence[Found], *, iou: float, by_label: bool
) -> tuple[CocoEvaluation, list[list[Found]]]:
    """The evaluation, and the detections by picture in its order."""
    items: list[Truth | Found] = [*truths, *found]
    pictures = {name: place for place, name in enumerate(dict.fromkeys(item.picture for item in items))}
    labels = {name: place for place, name in enumerate(dict.fromkeys(item.label for item in items))}
    by_picture: list[list[Found]] = [[] for _ in pictures]
    for one in found:
        by_picture[pictures[one.picture]].append(one)
    rows = [
        np.asarray([[*one.box, labels[one.label], one.score] for one in some], np.float64).reshape(-1, 6)
        for some in by_picture
    ]
    boxes = [GroundTruthBox(pictures[one.picture], labels[one.label], one.box) for one in truths]
    most = max(map(len, by_picture), default=1)
    return CocoEvaluation(boxes, rows, labels=len(labels), ious=(iou,), by_label=by_label, limit=most), by_picture
