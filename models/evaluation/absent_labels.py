"""How often nothing is found when all that is asked for is absent, at the model's own threshold."""

from collections.abc import Callable, Iterator

import numpy as np

from models.evaluation.backends import Backend
from models.evaluation.metrics import Example, Plot, Question, Result, box_and_label
from server.contract.manifest import Task
from server.contract.postprocess import Detection

EACH = 4
THRESHOLDS = np.linspace(0, 1, 101)


class Silence:
    """Questions whose texts are all absent from the picture. `name`: "absent", or "untrue" for phrases."""

    task: Task = "detect"

    def __init__(self, name: str, count: int, questions: Callable[[], Iterator[Question]]) -> None:
        self.name = name
        self._count, self._questions = count, questions
        self._scores: list[float] = []
        self._false: list[tuple[list[float], Question]] = []

    def __len__(self) -> int:
        return self._count

    def questions(self) -> Iterator[Question]:
        return self._questions()

    def ask(self, served: Backend, question: Question, picture: bytes) -> list[float]:
        """The best box x0, y0, x1, y1, the place of its label among the texts, its score; empty where there is none."""
        found = served.detect(picture, question.texts, box_threshold=0.0, max_detections=1).detections
        return [*found[0].box, found[0].label_id, found[0].score] if found else []

    def add(self, question: Question, answer: list[float] | None) -> None:
        if answer is None:
            return
        self._scores.append(answer[5] if answer else 0.0)
        if answer:
            self._false.append((answer, question))
        self._false = sorted(self._false, key=lambda one: -one[0][5])[:EACH]

    def result(self, served: Backend) -> Result:
        threshold, scores = served.model.box_threshold, np.asarray(self._scores)
        silent = np.asarray([(scores <= value).mean() if len(scores) else np.nan for value in THRESHOLDS])
        figures = {
            "silent": float((scores <= threshold).mean()) if len(scores) else float("nan"),
            "threshold": threshold,
            "questions": len(scores),
        }
        return Result(
            figures,
            notes=(f"Silent: nothing scores above the model's own threshold, {threshold:g}.",),
            plots=(
                Plot(
                    "silence",
                    "Pictures in which nothing absent is found",
                    "threshold",
                    "share",
                    {self.name: (THRESHOLDS, silent)},
                ),
            ),
            examples=tuple(
                Example("false alarms", one, [self._box(row, one)], one.texts[int(row[4])])
                for row, one in self._false
                if row[5] > threshold
            ),
        )

    @staticmethod
    def _box(row: list[float], question: Question) -> Detection:
        return box_and_label(row[:4], question.texts[int(row[4])], int(row[4]), row[5])
