"""Zero-shot classification: how often the right name is the best, or among the five best."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from models.evaluation.backends import Backend
from models.evaluation.calibration import calibration_error, histogram, reliability
from models.evaluation.metrics import Example, Question, Result
from server.contract.manifest import Task

BEST = 5
EACH = 4


class Classification:
    """Questions whose texts are all names; `truth`: the place of the right one. `templates`: none, the model's own."""

    name = "classification"
    task: Task = "classify"

    def __init__(
        self, count: int, questions: Callable[[], Iterator[Question]], names: Sequence[str], templates: Sequence[str]
    ) -> None:
        self._count, self._questions = count, questions
        self._names, self._templates = names, templates
        self._ranks: list[int] = []
        self._scores: list[float] = []
        self._right: np.ndarray = np.zeros((len(names), 2), np.int64)  # of each name, how often it was, and was found
        self._wrong: list[tuple[float, Question, int]] = []

    def __len__(self) -> int:
        return self._count

    def questions(self) -> Iterator[Question]:
        return self._questions()

    def ask(self, served: Backend, question: Question, picture: bytes) -> list[list[float]]:
        """The five best names, by their places, with their scores."""
        scores = served.classify(picture, question.texts, templates=self._templates)
        return [[score.label_id, score.score] for score in scores[:BEST]]

    def add(self, question: Question, answer: list[list[float]] | None) -> None:
        if answer is None:
            return
        places = [int(place) for place, _ in answer]
        rank = places.index(question.truth) if question.truth in places else BEST
        self._ranks.append(rank)
        self._scores.append(answer[0][1])
        self._right[question.truth] += [1, rank == 0]
        if rank:
            self._wrong.append((answer[0][1], question, places[0]))
        self._wrong = sorted(self._wrong, key=lambda one: -one[0])[:EACH]

    def result(self, served: Backend) -> Result:
        ranks, scores = np.asarray(self._ranks), np.asarray(self._scores)
        right = ranks == 0
        there, found = self._right.T
        shares = {self._names[place]: float(found[place] / there[place]) for place in np.flatnonzero(there).tolist()}
        worst = sorted(shares.items(), key=lambda one: one[1])[:10]
        return Result(
            {
                "top-1": float(right.mean()) if len(ranks) else float("nan"),
                "top-5": float((ranks < BEST).mean()) if len(ranks) else float("nan"),
                "top-1, mean over names": float(np.mean([*shares.values()])) if shares else float("nan"),
                "calibration error": calibration_error(scores, right),
                "names": len(self._names),
            },
            plots=(
                histogram("scores", "Scores of the best name", scores, right),
                reliability("calibration", "Calibration of the best name", scores, right),
            ),
            examples=tuple(
                Example("worst", one, (), f"{self._names[one.truth]!r}, taken for {self._names[taken]!r} ({score:.2f})")
                for score, one, taken in self._wrong
            ),
            tables=(("Names, the worst first", ("name", "top-1"), worst),),
            details={"names": shares},
        )
