"""Detection: COCO's average precision and recall, best F1 and calibration, by COCO's own evaluator."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from models.data.coco_evaluator import HALF, CocoEvaluation, GroundTruthBox, MatchedBoxes
from models.evaluation.backends import Backend, Model
from models.evaluation.calibration import best_f1, calibration_error, reliability_diagram, score_histogram
from models.evaluation.confusion import confusions
from models.evaluation.metrics import MAX_EXAMPLES, ExampleImage, Float64, MetricResult, Plot, Query, labelled_box
from server.contract.manifest import Task
from server.contract.postprocess import Detection, iou_matrix

MAX_WRONG = 20  # confusions in the table
RECALLS = np.linspace(0, 1, 101)


class DetectionMetric:
    """Average precision over `labels`, at most `max_detections` boxes an image.

    A query's texts are the labels to detect, its target their indices in `labels` and the ground-truth boxes. A label
    that is not in the query cannot be detected, so sets that list the labels annotated in an image count those alone.
    """

    name = "detection"
    task: Task = "detect"

    def __init__(self, labels: Sequence[str], *, max_detections: int) -> None:
        self._labels, self._max_detections = labels, max_detections
        self._truth: list[GroundTruthBox] = []
        self._found: list[Float64] = []
        self._queries: list[Query] = []

    def ask(self, backend: Backend, query: Query, image: bytes) -> list[list[float]]:
        """Rows x0, y0, x1, y1, label, score of all scores above 0, since average precision ranks the weak ones too."""
        answer = backend.detect(image, query.texts, box_threshold=0.0, max_detections=self._max_detections)
        labels, _ = query.target
        return [[*found.box, labels[found.label_id], found.score] for found in answer.detections]

    def add(self, query: Query, answer: list[list[float]]) -> None:
        image = len(self._queries)
        _, boxes = query.target
        self._truth += [GroundTruthBox(image, box.label, box.box, box.area, box.crowd) for box in boxes]
        self._found.append(np.asarray(answer, np.float64).reshape(-1, 6))
        self._queries.append(query)

    def result(self, model: Model) -> MetricResult:
        threshold = model.box_threshold
        evaluation = CocoEvaluation(self._truth, self._found, labels=len(self._labels))
        class_agnostic = CocoEvaluation(self._truth, self._found, labels=len(self._labels), by_label=False)
        matches = evaluation.matches()
        by_label = [
            (label, *values)
            for label, values in zip(self._labels, evaluation.by_label(), strict=True)
            if not np.isnan(values[0])
        ]
        by_label.sort(key=lambda row: row[1])
        pairs = confusions(self._truth, self._found, threshold).most_common()
        named = [*self._labels, "nothing"]  # NOTHING is the last index
        wrong = [(named[one], named[other], times) for (one, other), times in pairs if one != other]
        shown = by_label if len(by_label) <= 20 else [*by_label[:10], *by_label[-10:]]
        return MetricResult(
            _figures(evaluation, class_agnostic, matches),
            notes=(
                f"All detections with a score above 0 count, at most {self._max_detections} an image, of which COCO's"
                " evaluator takes the best 100 of each label. Non-maximum suppression and the number of labels a box"
                " may have are the bundle's own.",
                f"Example images show detections above the model's own threshold of {threshold:g}; the number of a"
                " missed object is its largest IoU with a detection of its label.",
            ),
            plots=_plots(evaluation, class_agnostic, matches),
            examples=tuple(self._examples(matches, threshold)),
            tables=(
                ("Labels, worst first", ("label", "AP", "AP50"), shown),
                (f"Most frequent confusions above {threshold:g}", ("object", "found as", "times"), wrong[:MAX_WRONG]),
            ),
            details={
                "labels": {label: {"AP": ap, "AP50": ap50} for label, ap, ap50 in by_label},
                "confusions": [list(row) for row in wrong],
            },
        )

    def _examples(self, matches: MatchedBoxes, threshold: float) -> Iterator[ExampleImage]:
        """Images of the best and worst F1 at the threshold, the most certain false alarms, and the largest misses."""
        count = len(self._queries)
        above = matches.found[:, 2] > threshold
        hits = np.bincount(matches.found[above & matches.hit, 0].astype(int), minlength=count)
        detected = np.bincount(matches.found[above, 0].astype(int), minlength=count)
        objects = np.bincount(matches.objects[:, 0].astype(int), minlength=count)
        f1 = 2 * hits / np.maximum(1, detected + objects)
        images = np.flatnonzero(objects)
        ranked = images[np.lexsort((-objects[images], -f1[images]))]
        half = (len(images) + 1) // 2  # no image is among the best and the worst
        for kind, some in (("best", ranked[:half]), ("worst", ranked[half:][::-1])):
            for image in some[:MAX_EXAMPLES].tolist():
                caption = f"{hits[image]} of {objects[image]} objects found, {detected[image] - hits[image]} false"
                boxes = [self._box(row) for row in self._found[image] if row[5] > threshold]
                yield ExampleImage(kind, self._queries[image], boxes, caption)
        false_alarms = matches.found[above & ~matches.hit]
        for image, row, score in false_alarms[np.argsort(-false_alarms[:, 2])][:MAX_EXAMPLES]:
            box = self._box(self._found[int(image)][int(row)])
            yield ExampleImage("false alarms", self._queries[int(image)], [box], f"{box.label} {score:.2f}")
        missed = matches.objects[matches.objects[:, 2] <= threshold]
        order = np.argsort([-_area(self._truth[int(index)]) for _, index, _ in missed], kind="stable")[:MAX_EXAMPLES]
        for image, index, _ in missed[order]:
            box = self._missed(int(image), self._truth[int(index)])
            yield ExampleImage("misses", self._queries[int(image)], [box], box.label)

    def _box(self, row: Float64) -> Detection:
        return labelled_box(row[:4].tolist(), self._labels[int(row[4])], int(row[4]), row[5])

    def _missed(self, image: int, truth: GroundTruthBox) -> Detection:
        same_label = self._found[image][self._found[image][:, 4] == truth.label]
        overlap = iou_matrix(np.asarray([truth.box], np.float32), same_label[:, :4].astype(np.float32))
        return labelled_box(truth.box, f"missed {self._labels[truth.label]}", truth.label, overlap.max(initial=0.0))


def _area(truth: GroundTruthBox) -> float:
    x0, y0, x1, y1 = truth.box
    return (x1 - x0) * (y1 - y0)


def _figures(evaluation: CocoEvaluation, class_agnostic: CocoEvaluation, matches: MatchedBoxes) -> dict[str, float]:
    scores = matches.found[:, 2]
    threshold, f1 = best_f1(scores, matches.hit, len(matches.objects))
    return {
        "AP": evaluation.average_precision(),
        "AP50": evaluation.average_precision(iou=HALF),
        "AP75": evaluation.average_precision(iou=5),
        "AP small": evaluation.average_precision(size="small"),
        "AP medium": evaluation.average_precision(size="medium"),
        "AP large": evaluation.average_precision(size="large"),
        "AR100": evaluation.average_recall(),
        "AP50, any label": class_agnostic.average_precision(iou=HALF),
        "best F1 (IoU 0.5)": f1,
        "threshold of the best F1": threshold,
        "calibration error": calibration_error(scores, matches.hit),
    }


def _plots(evaluation: CocoEvaluation, class_agnostic: CocoEvaluation, matches: MatchedBoxes) -> tuple[Plot, ...]:
    lines: dict[str, Any] = {}
    for text, curve in (("mean over labels", evaluation), ("any label", class_agnostic)):
        precision = curve.precision(iou=HALF)[0]  # [101, labels]
        present = precision[:, (precision > -1).all(0)]
        if present.shape[1]:
            lines[text] = (RECALLS, present.mean(1))
    scores, hit = matches.found[:, 2], matches.hit
    return (
        Plot("precision-recall", "Precision and recall at IoU 0.5", "recall", "precision", lines),
        score_histogram("scores", "Scores of detections (IoU 0.5)", scores, hit),
        reliability_diagram("calibration", "Calibration of detections (IoU 0.5)", scores, hit),
    )
