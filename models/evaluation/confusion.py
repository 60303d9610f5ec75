"""Confusions of a detector: the labels that objects are found under, and those that are found where nothing is."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from models.data.coco_evaluator import GroundTruthBox
from models.evaluation.metrics import Float64
from server.contract.postprocess import iou_matrix

IOU = 0.5
NOTHING = -1  # in place of the label of an object or a detection


def confusions(truth: Sequence[GroundTruthBox], found: Sequence[Float64], threshold: float) -> Counter[tuple[int, int]]:
    """Count pairs of an object's label and that of the detection on it, `NOTHING` where either is missing.

    found: for each image rows x0, y0, x1, y1, label, score. Detections above `threshold` take, the best first, the free
    object of the largest IoU from a half on, of whatever label. Crowd regions do not count, nor what lies on them.
    """
    pairs: Counter[tuple[int, int]] = Counter()
    objects: list[list[GroundTruthBox]] = [[] for _ in found]
    for one in truth:
        objects[one.image].append(one)
    for boxes, rows in zip(objects, found, strict=True):
        above = rows[rows[:, 5] > threshold]
        above = above[np.argsort(-above[:, 5], kind="stable")]
        corners = np.asarray([box.box for box in boxes], np.float32).reshape(-1, 4)
        overlap = iou_matrix(above[:, :4].astype(np.float32), corners)
        free = np.asarray([not box.crowd for box in boxes], np.bool_)
        for row, ious in zip(above, overlap, strict=True):
            chosen = int(np.where(free, ious, -1.0).argmax()) if free.any() else None
            if chosen is not None and ious[chosen] >= IOU:
                free[chosen] = False
                pairs[boxes[chosen].label, int(row[4])] += 1
            elif not any(box.crowd and iou > 0 for box, iou in zip(boxes, ious, strict=True)):
                pairs[NOTHING, int(row[4])] += 1
        pairs.update((box.label, NOTHING) for box, left in zip(boxes, free, strict=True) if left)
    return pairs
