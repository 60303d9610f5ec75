"""Zero-shot classification: top-1 and top-5 accuracy, and the calibration of the best class."""

from collections.abc import Sequence

import numpy as np

from models.evaluation.backends import Backend, Model
from models.evaluation.calibration import calibration_error, reliability_diagram, score_histogram
from models.evaluation.metrics import MAX_EXAMPLES, ExampleImage, MetricResult, Query, mean_or_nan
from server.contract.manifest import Task

TOP = 5


class ClassificationMetric:
    """Accuracy over `labels`, the texts of every query; a query's target is the index of the correct one.

    `templates`: prompt templates to average, the model's own where empty.
    """

    name = "classification"
    task: Task = "classify"

    def __init__(self, labels: Sequence[str], templates: Sequence[str]) -> None:
        self._labels, self._templates = labels, templates
        self._ranks: list[int] = []
        self._scores: list[float] = []
        self._counts: np.ndarray = np.zeros((len(labels), 2), np.int64)  # [labels, 2]: images, of which correct
        self._mistakes: list[tuple[float, Query, int]] = []

    def ask(self, backend: Backend, query: Query, image: bytes) -> list[list[float]]:
        """The five best labels as index and score."""
        scores = backend.classify(image, query.texts, templates=self._templates)
        return [[score.label_id, score.score] for score in scores[:TOP]]

    def add(self, query: Query, answer: list[list[float]]) -> None:
        top = [int(index) for index, _ in answer]
        rank = top.index(query.target) if query.target in top else TOP
        self._ranks.append(rank)
        self._scores.append(answer[0][1])
        self._counts[query.target] += [1, rank == 0]
        if rank:
            self._mistakes.append((answer[0][1], query, top[0]))
        self._mistakes = sorted(self._mistakes, key=lambda mistake: -mistake[0])[:MAX_EXAMPLES]

    def result(self, model: Model) -> MetricResult:
        ranks, scores = np.asarray(self._ranks), np.asarray(self._scores)
        correct = ranks == 0
        images, hits = self._counts.T
        accuracy = {self._labels[row]: float(hits[row] / images[row]) for row in np.flatnonzero(images).tolist()}
        worst = sorted(accuracy.items(), key=lambda item: item[1])[:10]
        return MetricResult(
            {
                "top-1": mean_or_nan(correct),
                "top-5": mean_or_nan(ranks < TOP),
                "top-1, mean over names": mean_or_nan(np.asarray([*accuracy.values()])),
                "calibration error": calibration_error(scores, correct),
                "names": len(self._labels),
            },
            plots=(
                score_histogram("scores", "Scores of the best class", scores, correct),
                reliability_diagram("calibration", "Calibration of the best class", scores, correct),
            ),
            examples=tuple(
                ExampleImage(
                    "worst",
                    query,
                    (),
                    f"{self._labels[query.target]!r} taken for {self._labels[index]!r} ({score:.2f})",
                )
                for score, query, index in self._mistakes
            ),
            tables=(("Classes, worst first", ("class", "top-1"), worst),),
            details={"names": accuracy},
        )
