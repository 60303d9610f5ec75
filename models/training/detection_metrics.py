"""Average precision, recall and thresholds of a detector, by COCO's evaluator."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from models.data.coco_evaluator import CocoEvaluation, GroundTruthBox

MOST_LABELS = 50  # with an AP of their own in the curve


@dataclass(frozen=True)
class LabelledBox:
    """An object in a picture, or a detection with its score; box x0, y0, x1, y1 in pixels."""

    picture: int
    label: str
    box: tuple[float, float, float, float]
    score: float = 1.0


def evaluation(
    truths: Sequence[LabelledBox],
    found: Sequence[LabelledBox],
    *,
    ious: Sequence[float] | None = (0.5,),
    by_label: bool = True,
) -> CocoEvaluation:
    """Match detections with objects at some IoUs (None: COCO's ten); without `by_label` all boxes are of one label."""
    items = [*truths, *found]
    pictures = {name: place for place, name in enumerate(dict.fromkeys(item.picture for item in items))}
    labels = {name: place for place, name in enumerate(_labels(truths, found))}
    rows: list[list[list[float]]] = [[] for _ in pictures]
    for one in found:
        rows[pictures[one.picture]].append([*one.box, labels[one.label], one.score])
    boxes = [GroundTruthBox(pictures[one.picture], labels[one.label], one.box) for one in truths]
    arrays = [np.asarray(some, np.float64).reshape(-1, 6) for some in rows]
    most = max(map(len, rows), default=1)
    return CocoEvaluation(boxes, arrays, labels=len(labels), ious=ious, by_label=by_label, limit=most)


def average_precisions(truths: Sequence[LabelledBox], found: Sequence[LabelledBox]) -> dict[str, float]:
    """COCO's AP and AP50, and AP of the `MOST_LABELS` labels with the most objects, as "ap/dog"."""
    measured = evaluation(truths, found, ious=None)
    figures = {
        "validation_ap": measured.average_precision(),
        "validation_ap50": measured.average_precision(iou=0),
    }
    of_labels = dict(zip(_labels(truths, found), measured.by_label(), strict=True))
    most = Counter(one.label for one in truths).most_common(MOST_LABELS)
    return figures | {f"ap/{label}": of_labels[label][0] for label, _ in most}


def _labels(truths: Sequence[LabelledBox], found: Sequence[LabelledBox]) -> list[str]:
    return list(dict.fromkeys(item.label for item in (*truths, *found)))


def best_f1_threshold(truths: Sequence[LabelledBox], found: Sequence[LabelledBox]) -> float:
    """Find the score above which detections have the best F1; ValueError if there are none."""
    if not found:
        raise ValueError(f"no detection to choose a threshold by, for {len(truths)} objects")
    matches = evaluation(truths, found).matches()
    order = np.argsort(-matches.found[:, 2], kind="stable")
    scores, hits = matches.found[order, 2], np.cumsum(matches.hit[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + len(truths))
    last = int(f1.argmax())
    below = scores[last + 1] if last + 1 < len(scores) else 0.0
    return float((scores[last] + below) / 2)


def recall_above(truths: Sequence[LabelledBox], found: Sequence[LabelledBox], threshold: float) -> float:
    """Compute the share of objects that detections above a score find."""
    matches = evaluation(truths, [one for one in found if one.score > threshold]).matches()
    return float(matches.hit.sum() / max(1, len(truths)))


def quiet_threshold(highest: Sequence[float], share: float) -> float:
    """Find the lowest score above which a `share` of pictures, with these `highest` scores, has no detection."""
    return float(np.quantile(np.asarray(highest), share, method="higher"))
