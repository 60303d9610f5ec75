"""Phrase grounding: how often one of the best boxes for a phrase is right, as Flickr30k Entities is measured."""

from collections.abc import Callable, Iterator

import numpy as np

from models.evaluation.backends import Backend
from models.evaluation.metrics import Example, Question, Result, box_and_label
from server.contract.manifest import Task
from server.contract.postprocess import Float32, iou_matrix

DEPTHS = (1, 5, 10)
EACH = 4
IOU = 0.5
MOST = 300  # boxes of all phrases together


class Grounding:
    """Questions whose texts are the phrases of a caption; `truth` has the boxes [K, 4] of each.

    A phrase counts as found at k if one of its k best boxes overlaps with IoU 0.5: with any of its boxes (ANY-box), or
    with the box around them all (MERGED-box), the two protocols in use (Kamath et al. 2021, MDETR, section 4.2.1).
    """

    name = "grounding"
    task: Task = "detect"

    def __init__(self, count: int, questions: Callable[[], Iterator[Question]]) -> None:
        self._count, self._questions = count, questions
        self._ranks: list[tuple[float, float]] = []  # of each phrase, where the first right box stands, by protocol
        self._wrong: list[tuple[float, Question, int, list[float] | None]] = []

    def __len__(self) -> int:
        return self._count

    def questions(self) -> Iterator[Question]:
        return self._questions()

    def ask(self, served: Backend, question: Question, picture: bytes) -> list[list[list[float]]]:
        """For each phrase its best boxes, x0, y0, x1, y1, score."""
        labels = list(dict.fromkeys(question.texts))
        answer = served.detect(picture, labels, box_threshold=0.0, max_detections=MOST)
        best: dict[str, list[list[float]]] = {label: [] for label in labels}
        for found in answer.detections:
            rows = best[labels[found.label_id]]
            if len(rows) < max(DEPTHS):
                rows.append([*found.box, found.score])
        return [best[text] for text in question.texts]

    def add(self, question: Question, answer: list[list[list[float]]] | None) -> None:
        if answer is None:
            return
        for place, (boxes, rows) in enumerate(zip(question.truth, answer, strict=True)):
            found = np.asarray(rows, np.float32).reshape(-1, 5)
            merged = np.concatenate([boxes[:, :2].min(0), boxes[:, 2:].max(0)])[None].astype(np.float32)
            self._ranks.append((_rank(found[:, :4], boxes), _rank(found[:, :4], merged)))
            if self._ranks[-1][0] > 1:
                score = float(found[0, 4]) if len(found) else 0.0
                self._wrong.append((score, question, place, rows[0] if rows else None))
        self._wrong = sorted(self._wrong, key=lambda one: -one[0])[:EACH]

    def result(self, served: Backend) -> Result:
        ranks = np.asarray(self._ranks, np.float64).reshape(-1, 2)
        figures = {
            f"R@{depth}, {protocol}": float((ranks[:, column] <= depth).mean()) if len(ranks) else float("nan")
            for column, protocol in enumerate(("any box", "merged box"))
            for depth in DEPTHS
        }
        figures["phrases"] = len(ranks)
        note = (
            "A caption's phrases are asked for together, as labels; a phrase is found at k if one of its k best boxes"
            f" has an IoU of {IOU} with any of its boxes (any box), or with the box around all of them (merged box)."
        )
        return Result(figures, notes=(note,), examples=tuple(self._examples()))

    def _examples(self) -> Iterator[Example]:
        for score, question, place, best in self._wrong:
            phrase = question.texts[place]
            drawn = [box_and_label(box, f"meant {phrase}", 1, 0.0) for box in question.truth[place]]
            if best is not None:
                drawn.append(box_and_label(best[:4], phrase, 0, score))
            yield Example("wrong boxes", question, drawn, f"{phrase!r}")


def _rank(found: Float32, boxes: Float32) -> float:
    """From 1, where the first box stands that overlaps with one of `boxes`; infinite where none does."""
    hits = np.flatnonzero((iou_matrix(found, boxes) >= IOU).any(1))
    return float(hits[0]) + 1 if len(hits) else float("inf")
