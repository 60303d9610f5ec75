"""Detection: average precision as COCO measures it, by the maintained evaluator."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from models.data.coco_evaluator import HALF, Box, Evaluation, Matches
from models.evaluation.backends import Backend
from models.evaluation.calibration import best_threshold, calibration_error, histogram, reliability
from models.evaluation.metrics import Example, Float64, Plot, Question, Result, box_and_label
from server.contract.manifest import Task
from server.contract.postprocess import Detection as Drawn
from server.contract.postprocess import iou_matrix

EACH = 4  # example pictures of a kind
RECALLS = np.linspace(0, 1, 101)


class Detection:
    """Questions whose texts are the categories to look for, with their places in `names` and the picture's boxes.

    `truth` of a question: (places of its texts in `names`, boxes). Detections of categories that were not asked for
    cannot occur, so sets that say which categories were looked for in a picture are measured on those alone.
    """

    name = "detection"
    task: Task = "detect"

    def __init__(
        self, count: int, questions: Callable[[], Iterator[Question]], names: Sequence[str], *, most: int
    ) -> None:
        self._count, self._questions, self._names, self._most = count, questions, names, most
        self._truth: list[Box] = []
        self._found: list[Float64] = []
        self._asked: list[Question] = []

    def __len__(self) -> int:
        return self._count

    def questions(self) -> Iterator[Question]:
        return self._questions()

    def ask(self, served: Backend, question: Question, picture: bytes) -> list[list[float]]:
        """Rows x0, y0, x1, y1, label, score: all scores above 0, as average precision needs the uncertain ones too."""
        answer = served.detect(picture, question.texts, box_threshold=0.0, max_detections=self._most)
        places, _ = question.truth
        return [[*found.box, places[found.label_id], found.score] for found in answer.detections]

    def add(self, question: Question, answer: list[list[float]] | None) -> None:
        if answer is None:
            return
        picture = len(self._asked)
        _, boxes = question.truth
        self._truth += [Box(picture, one.label, one.box, one.area, one.crowd) for one in boxes]
        self._found.append(np.asarray(answer, np.float64).reshape(-1, 6))
        self._asked.append(question)

    def result(self, served: Backend) -> Result:
        threshold = served.model.box_threshold
        whole = Evaluation(self._truth, self._found, labels=len(self._names))
        alike = Evaluation(self._truth, self._found, labels=len(self._names), by_label=False)
        matches = whole.matches()
        by_label = [
            (name, *values)
            for name, values in zip(self._names, whole.by_label(), strict=True)
            if not np.isnan(values[0])
        ]
        by_label.sort(key=lambda row: row[1])
        shown = by_label if len(by_label) <= 20 else [*by_label[:10], *by_label[-10:]]
        return Result(
            _figures(whole, alike, matches),
            notes=(
                f"Detections are not cut by serving defaults: every score above 0, at most {self._most} a picture, of"
                " which COCO's evaluator looks at the best 100 of each label. Suppression of overlapping boxes and the"
                " number of labels a box may have are the bundle's own.",
                f"Examples show what the model's own threshold of {threshold:g} lets pass; the number of a missed"
                " object is the largest overlap that a detection of its label has with it.",
            ),
            plots=_plots(whole, alike, matches),
            examples=tuple(self._examples(matches, threshold)),
            tables=(("Labels, the worst first", ("label", "AP", "AP50"), shown),),
            details={"labels": {name: {"AP": ap, "AP50": half} for name, ap, half in by_label}},
        )

    def _examples(self, matches: Matches, threshold: float) -> Iterator[Example]:
        """Pictures with the best and worst F1 at the threshold, the surest false alarms, and the largest misses."""
        count = len(self._asked)
        served = matches.found[:, 2] > threshold
        right = np.bincount(matches.found[served & matches.hit, 0].astype(int), minlength=count)
        shown = np.bincount(matches.found[served, 0].astype(int), minlength=count)
        there = np.bincount(matches.objects[:, 0].astype(int), minlength=count)
        f1 = 2 * right / np.maximum(1, shown + there)
        some = np.flatnonzero(there)
        best = some[np.lexsort((-there[some], -f1[some]))][:EACH]
        worst = some[np.lexsort((-there[some], f1[some]))][:EACH]
        for kind, pictures in (("best", best), ("worst", worst)):
            for picture in pictures.tolist():
                text = f"{right[picture]} of {there[picture]} objects found, {shown[picture] - right[picture]} false"
                yield Example(kind, self._asked[picture], self._drawn(picture, threshold), text)
        false = matches.found[served & ~matches.hit]
        for picture, row, score in false[np.argsort(-false[:, 2])][:EACH]:
            one = self._found[int(picture)][int(row)]
            text = f"{self._names[int(one[4])]} {score:.2f}"
            yield Example("false alarms", self._asked[int(picture)], [self._box(one)], text)
        missed = matches.objects[matches.objects[:, 2] <= threshold]
        order = np.argsort([-self._area(int(place)) for _, place, _ in missed], kind="stable")[:EACH]
        for picture, place, _ in missed[order]:
            drawn = self._missed(int(picture), int(place))
            yield Example("misses", self._asked[int(picture)], [drawn], drawn.label)

    def _drawn(self, picture: int, threshold: float) -> list[Drawn]:
        return [self._box(row) for row in self._found[picture] if row[5] > threshold]

    def _box(self, row: Float64) -> Drawn:
        return box_and_label(row[:4].tolist(), self._names[int(row[4])], int(row[4]), row[5])

    def _missed(self, picture: int, place: int) -> Drawn:
        one = self._truth[place]
        same = self._found[picture][self._found[picture][:, 4] == one.label]
        overlap = iou_matrix(np.asarray([one.box], np.float32), same[:, :4].astype(np.float32))
        return box_and_label(one.box, f"missed {self._names[one.label]}", one.label, overlap.max(initial=0.0))

    def _area(self, place: int) -> float:
        x0, y0, x1, y1 = self._truth[place].box
        return (x1 - x0) * (y1 - y0)


def _figures(whole: Evaluation, alike: Evaluation, matches: Matches) -> dict[str, float]:
    scores = matches.found[:, 2]
    best, f1 = best_threshold(scores, matches.hit, len(matches.objects))
    return {
        "AP": whole.average_precision(),
        "AP50": whole.average_precision(iou=HALF),
        "AP75": whole.average_precision(iou=5),
        "AP small": whole.average_precision(size="small"),
        "AP medium": whole.average_precision(size="medium"),
        "AP large": whole.average_precision(size="large"),
        "AR100": whole.average_recall(),
        "AP50, any label": alike.average_precision(iou=HALF),
        "best F1 (IoU 0.5)": f1,
        "threshold of the best F1": best,
        "calibration error": calibration_error(scores, matches.hit),
    }


def _plots(whole: Evaluation, alike: Evaluation, matches: Matches) -> tuple[Plot, ...]:
    lines: dict[str, Any] = {}
    for text, one in (("mean over labels", whole), ("any label", alike)):
        precision = one.precision(iou=HALF)[0]  # [101, labels]
        known = precision[:, (precision > -1).all(0)]
        if known.shape[1]:
            lines[text] = (RECALLS, known.mean(1))
    scores, hit = matches.found[:, 2], matches.hit
    return (
        Plot("precision-recall", "Precision and recall at IoU 0.5", "recall", "precision", lines),
        histogram("scores", "Scores of detections (IoU 0.5)", scores, hit),
        reliability("calibration", "Calibration of detections (IoU 0.5)", scores, hit),
    )
