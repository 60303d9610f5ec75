"""False alarms on absent labels: how often the best detection scores above the model's own threshold."""

import numpy as np

from models.evaluation.backends import Backend, Model
from models.evaluation.metrics import MAX_EXAMPLES, ExampleImage, MetricResult, Plot, Query, labelled_box, mean_or_nan
from server.contract.manifest import Task
from server.contract.postprocess import Detection

THRESHOLDS = np.linspace(0, 1, 101)


class AbsentLabelsMetric:
    """Share of images without a false alarm; no text of a query is in its image.

    `name`: "absent", or "untrue" for phrases that do not describe the image.
    """

    task: Task = "detect"

    def __init__(self, name: str) -> None:
        self.name = name
        self._scores: list[float] = []
        self._false_alarms: list[tuple[list[float], Query]] = []

    def ask(self, backend: Backend, query: Query, image: bytes) -> list[float]:
        """The best detection as x0, y0, x1, y1, index of its text, score; empty without one."""
        found = backend.detect(image, query.texts, box_threshold=0.0, max_detections=1).detections
        return [*found[0].box, found[0].label_id, found[0].score] if found else []

    def add(self, query: Query, answer: list[float]) -> None:
        self._scores.append(answer[5] if answer else 0.0)
        if answer:
            self._false_alarms.append((answer, query))
        self._false_alarms = sorted(self._false_alarms, key=lambda alarm: -alarm[0][5])[:MAX_EXAMPLES]

    def result(self, model: Model) -> MetricResult:
        threshold, scores = model.box_threshold, np.asarray(self._scores)
        silent = np.asarray([mean_or_nan(scores <= value) for value in THRESHOLDS])
        return MetricResult(
            {"silent": mean_or_nan(scores <= threshold), "threshold": threshold, "questions": len(scores)},
            notes=(f"Silent: no detection scores above the model's own threshold, {threshold:g}.",),
            plots=(
                Plot(
                    "silence", "Images without a false alarm", "threshold", "share", {self.name: (THRESHOLDS, silent)}
                ),
            ),
            examples=tuple(
                ExampleImage("false alarms", query, [_box(row, query)], query.texts[int(row[4])])
                for row, query in self._false_alarms
                if row[5] > threshold
            ),
        )


def _box(row: list[float], query: Query) -> Detection:
    return labelled_box(row[:4], query.texts[int(row[4])], int(row[4]), row[5])
