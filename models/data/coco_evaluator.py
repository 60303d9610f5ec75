"""Average precision of boxes in arrays, by COCO's own evaluator (pycocotools)."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

Float64 = npt.NDArray[np.float64]
SIZES = ("all", "small", "medium", "large")  # by area: up to 32 x 32 pixels, up to 96 x 96, above
HALF = 0  # index of IoU 0.50 among the evaluator's ten thresholds


@dataclass(frozen=True)
class GroundTruthBox:
    """An annotated object: image and label as indices, box x0, y0, x1, y1 in pixels.

    `area` is the segmentation's, which decides COCO's size class; None takes the box's. A `crowd` is never missed, and
    detections in it are no false alarms.
    """

    image: int
    label: int
    box: Sequence[float]
    area: float | None = None
    crowd: bool = False


@dataclass(frozen=True)
class MatchedBoxes:
    """Detections matched with objects at the first IoU threshold, without crowds and the detections in them.

    found [K, 3]: image, row among its detections, score; hit [K]: matches an object that no better detection matches.
    objects [M, 3]: image, index among all objects, score of the matching detection (-1: missed).
    """

    found: Float64
    hit: npt.NDArray[np.bool_]
    objects: Float64


class CocoEvaluation:
    """Evaluates detections, an array [N, 6] for each image, against ground truth with `labels` labels.

    A detection is x0, y0, x1, y1, label, score. Without `by_label` labels are ignored. The best `limit` detections of
    each image and label count, as in COCO.
    """

    def __init__(
        self,
        truth: Sequence[GroundTruthBox],
        found: Sequence[Float64],
        *,
        labels: int,
        ious: Sequence[float] | None = None,
        by_label: bool = True,
        limit: int = 100,
    ) -> None:
        self._starts = np.cumsum([0, *(len(rows) for rows in found)])
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
            objects = _objects(truth, len(found), labels)
            self._evaluator = COCOeval(objects, _detections(objects, found), "bbox")
            parameters = self._evaluator.params
            parameters.useCats = int(by_label)
            parameters.maxDets = [limit]
            if ious is not None:
                parameters.iouThrs = np.asarray(ious, np.float64)
            self._evaluator.evaluate()
            self._evaluator.accumulate()

    def precision(self, *, iou: int | None = None, size: str = "all") -> Float64:
        """Precision [IoUs, 101 recalls, labels], -1 for a label without objects; `iou`: the index of one threshold."""
        values: Float64 = self._evaluator.eval["precision"][..., SIZES.index(size), 0]
        return values if iou is None else values[iou : iou + 1]

    def average_precision(self, *, iou: int | None = None, size: str = "all") -> float:
        """Mean over IoU thresholds, recalls and labels that occur; NaN without objects."""
        return _mean(self.precision(iou=iou, size=size))

    def average_recall(self) -> float:
        """Share of objects found, mean over IoU thresholds and labels; NaN without objects."""
        return _mean(self._evaluator.eval["recall"][..., SIZES.index("all"), 0])

    def by_label(self) -> list[tuple[float, float]]:
        """AP and AP50 of each label, NaN for a label that does not occur."""
        precision = self.precision()
        return [(_mean(precision[..., label]), _mean(precision[HALF, :, label])) for label in range(precision.shape[2])]

    def matches(self) -> MatchedBoxes:
        """Matches at the first IoU threshold."""
        found: list[list[float]] = []
        hit: list[bool] = []
        objects: list[list[float]] = []
        for match in self._matches_of_any_size():
            score_of = dict(zip(match["dtIds"], match["dtScores"], strict=True))
            for row, score, matched, ignored in zip(
                match["dtIds"], match["dtScores"], match["dtMatches"][HALF], match["dtIgnore"][HALF], strict=True
            ):
                if not ignored:
                    found.append([match["image_id"], row - 1 - self._starts[match["image_id"]], score])
                    hit.append(bool(matched))
            for index, matched, ignored in zip(
                match["gtIds"], match["gtMatches"][HALF], match["gtIgnore"], strict=True
            ):
                if not ignored:
                    objects.append([match["image_id"], index - 1, score_of.get(int(matched), -1.0)])
        return MatchedBoxes(_rows(found), np.asarray(hit, np.bool_), _rows(objects))

    def _matches_of_any_size(self) -> Iterator[dict[str, Any]]:
        """Matches of each label and image for objects of any size, the first of each label's size classes."""
        images = len(self._evaluator.params.imgIds)
        for index, match in enumerate(self._evaluator.evalImgs):
            if match is not None and index // images % len(SIZES) == 0:
                yield match


def _objects(truth: Sequence[GroundTruthBox], images: int, labels: int) -> COCO:
    annotations = []
    for number, box in enumerate(truth, 1):  # the evaluator reads an id of 0 as no match
        x0, y0, x1, y1 = box.box
        area = (x1 - x0) * (y1 - y0) if box.area is None else box.area
        annotations.append(
            {
                "id": number,
                "image_id": box.image,
                "category_id": box.label,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": area,
                "iscrowd": int(box.crowd),
            }
        )
    return _coco(annotations, images, labels)


def _detections(objects: COCO, found: Sequence[Float64]) -> COCO:
    images = np.repeat(np.arange(len(found)), [len(rows) for rows in found])
    rows = np.concatenate([np.zeros((0, 6)), *found])
    if not len(rows):
        return _coco([], len(objects.imgs), len(objects.cats))  # loadRes rejects an empty list
    corner, extent = rows[:, :2], rows[:, 2:4] - rows[:, :2]
    return objects.loadRes(np.column_stack([images, corner, extent, rows[:, 5], rows[:, 4]]))


def _coco(annotations: list[dict[str, Any]], images: int, labels: int) -> COCO:
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": label, "name": str(label)} for label in range(labels)],
        "annotations": annotations,
    }
    coco.createIndex()
    return coco


def _mean(values: Float64) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def _rows(rows: Sequence[Sequence[float]]) -> Float64:
    return np.asarray(rows, np.float64).reshape(-1, 3)
