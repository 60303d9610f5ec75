"""Average precision by COCO's own evaluator (pycocotools), for boxes that are given as arrays."""

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
HALF = 0  # the place of IoU 0.50 among the evaluator's ten


@dataclass(frozen=True)
class Box:
    """An object that is in a picture: a box x0, y0, x1, y1 in pixels, of the label at that place in a list.

    `area` is that of its outline where there is one, since COCO sorts by that; of a crowd nothing is missed or false.
    """

    picture: int
    label: int
    box: Sequence[float]
    area: float | None = None
    crowd: bool = False


@dataclass(frozen=True)
class Matches:
    """What became of each detection and each object at IoU 0.5; crowds, and what lies in them, are left out.

    found [K, 3]: picture, its row among that picture's detections, score; hit [K] whether it found an object that no
    better one had. objects [M, 3]: picture, place among the objects, score of what found it (-1: nothing).
    """

    found: Float64
    hit: npt.NDArray[np.bool_]
    objects: Float64


class Evaluation:
    """Boxes of `labels` in pictures 0 .. `pictures` - 1 against detections, arrays [N, 6] by picture.

    A detection is x0, y0, x1, y1, label, score. Without `by_label` all count as one label. At most `limit` of the best
    are looked at per picture and label, as COCO does.
    """

    def __init__(
        self,
        truth: Sequence[Box],
        found: Sequence[Float64],
        *,
        labels: int,
        ious: Sequence[float] | None = None,
        by_label: bool = True,
        limit: int = 100,
    ) -> None:
        self._starts = np.cumsum([0, *(len(rows) for rows in found)])
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its steps
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
        """Precision [overlaps, 101 recalls, labels], -1 for a label without an object; `iou`: one overlap's place."""
        values: Float64 = self._evaluator.eval["precision"][..., SIZES.index(size), 0]
        return values if iou is None else values[iou : iou + 1]

    def average_precision(self, *, iou: int | None = None, size: str = "all") -> float:
        """The mean over overlaps, recalls and labels that occur; NaN where there is no object."""
        return _mean(self.precision(iou=iou, size=size))

    def average_recall(self, *, size: str = "all") -> float:
        """The share of objects found, mean over overlaps and labels; NaN where there is no object."""
        return _mean(self._evaluator.eval["recall"][..., SIZES.index(size), 0])

    def by_label(self) -> list[tuple[float, float]]:
        """AP and AP50 of each label, NaN where it does not occur."""
        precision = self.precision()
        return [(_mean(precision[..., label]), _mean(precision[HALF, :, label])) for label in range(precision.shape[2])]

    def matches(self) -> Matches:
        """What was found and missed at the first overlap."""
        found: list[list[float]] = []
        hit: list[bool] = []
        objects: list[list[float]] = []
        for one in self._all_sizes():
            score_of = dict(zip(one["dtIds"], one["dtScores"], strict=True))
            for row, score, match, ignored in zip(
                one["dtIds"], one["dtScores"], one["dtMatches"][HALF], one["dtIgnore"][HALF], strict=True
            ):
                if not ignored:
                    found.append([one["image_id"], row - 1 - self._starts[one["image_id"]], score])
                    hit.append(bool(match))
            for place, match, ignored in zip(one["gtIds"], one["gtMatches"][HALF], one["gtIgnore"], strict=True):
                if not ignored:
                    objects.append([one["image_id"], place - 1, score_of.get(int(match), -1.0)])
        return Matches(_rows(found), np.asarray(hit, np.bool_), _rows(objects))

    def _all_sizes(self) -> Iterator[dict[str, Any]]:
        """The matches of each label in each picture, for objects of any size, which come first of each label."""
        pictures = len(self._evaluator.params.imgIds)
        for place, one in enumerate(self._evaluator.evalImgs):
            if one is not None and place // pictures % len(SIZES) == 0:
                yield one


def _objects(truth: Sequence[Box], pictures: int, labels: int) -> COCO:
    annotations = []
    for number, one in enumerate(truth, 1):  # an id of 0 would read as no match
        x0, y0, x1, y1 = one.box
        area = (x1 - x0) * (y1 - y0) if one.area is None else one.area
        annotations.append(
            {
                "id": number,
                "image_id": one.picture,
                "category_id": one.label,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": area,
                "iscrowd": int(one.crowd),
            }
        )
    return _coco(annotations, pictures, labels)


def _detections(objects: COCO, found: Sequence[Float64]) -> COCO:
    pictures = np.repeat(np.arange(len(found)), [len(rows) for rows in found])
    rows = np.concatenate([np.zeros((0, 6)), *found])
    if not len(rows):
        return _coco([], len(objects.imgs), len(objects.cats))  # its own reader takes no empty list
    corner, extent = rows[:, :2], rows[:, 2:4] - rows[:, :2]
    return objects.loadRes(np.column_stack([pictures, corner, extent, rows[:, 5], rows[:, 4]]))


def _coco(annotations: list[dict[str, Any]], pictures: int, labels: int) -> COCO:
    coco = COCO()
    coco.dataset = {
        "info": {},
        "images": [{"id": picture} for picture in range(pictures)],
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
