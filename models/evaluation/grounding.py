"""Phrase grounding: recall at 1, 5 and 10 boxes, as Flickr30k Entities is measured."""

from collections.abc import Iterator

import numpy as np

from models.evaluation.backends import Backend, Model
from models.evaluation.metrics import MAX_EXAMPLES, ExampleImage, MetricResult, Query, labelled_box, mean_or_nan
from server.contract.manifest import Task
from server.contract.postprocess import Float32, iou_matrix

DEPTHS = (1, 5, 10)
IOU = 0.5
MAX_DETECTIONS = 300  # of all phrases of a caption together


class GroundingMetric:
    """Recall of phrases; a query's texts are the phrases of a caption, its target the boxes [K, 4] of each.

    A phrase is found at k if one of its k best boxes has an IoU of 0.5 with any of its boxes (ANY-box), or with the box
    around them all (MERGED-box): the two protocols in use (Kamath et al. 2021, MDETR, section 4.2.1).
    """

    name = "grounding"
    task: Task = "detect"

    def __init__(self) -> None:
        self._ranks: list[tuple[float, float]] = []  # of each phrase's first correct box, by protocol
        self._mistakes: list[tuple[float, Query, int, list[float] | None]] = []

    def ask(self, backend: Backend, query: Query, image: bytes) -> list[list[list[float]]]:
        """The best boxes of each phrase as x0, y0, x1, y1, score."""
        labels = list(dict.fromkeys(query.texts))
        answer = backend.detect(image, labels, box_threshold=0.0, max_detections=MAX_DETECTIONS)
        best: dict[str, list[list[float]]] = {label: [] for label in labels}
        for found in answer.detections:
            rows = best[labels[found.label_id]]
            if len(rows) < max(DEPTHS):
                rows.append([*found.box, found.score])
        return [best[text] for text in query.texts]

    def add(self, query: Query, answer: list[list[list[float]]]) -> None:
        for index, (boxes, rows) in enumerate(zip(query.target, answer, strict=True)):
            found = np.asarray(rows, np.float32).reshape(-1, 5)
            merged = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])[None].astype(np.float32)
            self._ranks.append((_rank(found[:, :4], boxes), _rank(found[:, :4], merged)))
            if self._ranks[-1][0] > 1:
                score = float(found[0, 4]) if len(found) else 0.0
                self._mistakes.append((score, query, index, rows[0] if rows else None))
        self._mistakes = sorted(self._mistakes, key=lambda mistake: -mistake[0])[:MAX_EXAMPLES]

    def result(self, model: Model) -> MetricResult:
        ranks = np.asarray(self._ranks, np.float64).reshape(-1, 2)
        figures = {
            f"R@{depth}, {protocol}": mean_or_nan(ranks[:, column] <= depth)
            for column, protocol in enumerate(("any box", "merged box"))
            for depth in DEPTHS
        }
        figures["phrases"] = len(ranks)
        note = (
            "The phrases of a caption are detected together, as labels. A phrase is found at k if one of its k best"
            f" boxes has an IoU of {IOU} with any of its boxes (any box), or with the box around them all (merged box)."
        )
        return MetricResult(figures, notes=(note,), examples=tuple(self._examples()))

    def _examples(self) -> Iterator[ExampleImage]:
        for score, query, index, best in self._mistakes:
            phrase = query.texts[index]
            drawn = [labelled_box(box, f"expected {phrase}", 1, 0.0) for box in query.target[index]]
            if best is not None:
                drawn.append(labelled_box(best[:4], phrase, 0, score))
            yield ExampleImage("wrong boxes", query, drawn, f"{phrase!r}")


def _rank(found: Float32, boxes: Float32) -> float:
    """1-based rank of the first box that matches one of `boxes`; infinite without one."""
    hits = np.flatnonzero((iou_matrix(found, boxes) >= IOU).any(1))
    return float(hits[0]) + 1 if len(hits) else float("inf")
