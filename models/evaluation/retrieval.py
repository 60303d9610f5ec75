"""Retrieval: how often a picture's text is among those nearest to it, and the other way round."""

import base64
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt

from models.evaluation.backends import Backend
from models.evaluation.metrics import Example, Question, Result
from server.contract.manifest import Task

Float32 = npt.NDArray[np.float32]
DEPTHS = (1, 5, 10)
ROWS = 256  # of the matrix of cosines at once
EACH = 4


class Retrieval:
    """Questions whose texts are a picture's captions; all pictures are compared with all texts.

    Equal texts count as one, which is then right for every picture it stands by.
    """

    name = "retrieval"
    task: Task = "similarity"

    def __init__(self, count: int, questions: Callable[[], Iterator[Question]]) -> None:
        self._count, self._questions = count, questions
        self._pictures: list[Float32] = []
        self._texts: dict[str, Float32] = {}
        self._asked: list[Question] = []

    def __len__(self) -> int:
        return self._count

    def questions(self) -> Iterator[Question]:
        return self._questions()

    def ask(self, served: Backend, question: Question, picture: bytes) -> list[str]:
        """The embeddings of the picture and of each text, as base64 of float32."""
        found = served.embed(picture, question.texts)
        return [base64.b64encode(np.asarray(row, "<f4").tobytes()).decode() for row in (*found.images, *found.texts)]

    def add(self, question: Question, answer: list[str] | None) -> None:
        if answer is None:
            return
        picture, *texts = (np.frombuffer(base64.b64decode(row), "<f4") for row in answer)
        self._pictures.append(picture)
        self._texts.update(zip(question.texts, texts, strict=True))
        self._asked.append(question)

    def result(self, served: Backend) -> Result:
        place = {text: row for row, text in enumerate(self._texts)}
        of_picture = [[place[text] for text in question.texts] for question in self._asked]
        of_text: list[list[int]] = [[] for _ in place]
        for picture, captions in enumerate(of_picture):
            for text in captions:
                of_text[text].append(picture)
        pictures, texts = np.stack(self._pictures), np.stack([*self._texts.values()])
        picture_ranks, text_ranks = ranks(pictures, texts, of_picture), ranks(texts, pictures, of_text)
        figures = {
            f"{way} R@{depth}": float((found < depth).mean())
            for way, found in (("picture to text", picture_ranks), ("text to picture", text_ranks))
            for depth in DEPTHS
        }
        worst = np.argsort(-picture_ranks, kind="stable")[:EACH]
        return Result(
            figures | {"pictures": len(pictures), "texts": len(texts)},
            examples=tuple(
                Example("worst", self._asked[row], (), f"its text is number {picture_ranks[row] + 1} of {len(texts)}")
                for row in worst.tolist()
                if picture_ranks[row]
            ),
        )


def ranks(rows: Float32, columns: Float32, right: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """For each of the rows [N, D] how many of the columns [M, D] are nearer than the nearest that is right for it."""
    found: list[int] = []
    for start in range(0, len(rows), ROWS):
        cosines = rows[start : start + ROWS] @ columns.T
        for row, values in enumerate(cosines, start):
            found.append(int((values > values[list(right[row])].max()).sum()))
    return np.asarray(found, np.int64)
