"""Image-text retrieval: recall at 1, 5 and 10, in both directions."""

import base64
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from models.evaluation.backends import Backend, Model
from models.evaluation.metrics import MAX_EXAMPLES, ExampleImage, MetricResult, Query
from server.contract.manifest import Task

Float32 = npt.NDArray[np.float32]
DEPTHS = (1, 5, 10)
CHUNK = 256  # rows of the cosine matrix computed at once


class RetrievalMetric:
    """Recall over all images and all texts; a query's texts are the captions of its image.

    Equal texts count as one, which matches each of its images.
    """

    name = "retrieval"
    task: Task = "similarity"

    def __init__(self) -> None:
        self._images: list[Float32] = []
        self._texts: dict[str, Float32] = {}
        self._queries: list[Query] = []

    def ask(self, backend: Backend, query: Query, image: bytes) -> list[str]:
        """The embeddings of the image and of each text, as base64 of little-endian float32."""
        found = backend.embed(image, query.texts)
        return [base64.b64encode(np.asarray(row, "<f4").tobytes()).decode() for row in (*found.images, *found.texts)]

    def add(self, query: Query, answer: list[str]) -> None:
        image, *texts = (np.frombuffer(base64.b64decode(row), "<f4") for row in answer)
        self._images.append(image)
        self._texts.update(zip(query.texts, texts, strict=True))
        self._queries.append(query)

    def result(self, model: Model) -> MetricResult:
        column = {text: index for index, text in enumerate(self._texts)}
        texts_of_image = [[column[text] for text in query.texts] for query in self._queries]
        images_of_text: list[list[int]] = [[] for _ in column]
        for row, captions in enumerate(texts_of_image):
            for text in captions:
                images_of_text[text].append(row)
        images, texts = np.stack(self._images), np.stack([*self._texts.values()])
        image_ranks = best_ranks(images, texts, texts_of_image)
        figures = {
            f"{direction} R@{depth}": float((ranks < depth).mean())
            for direction, ranks in (
                ("picture to text", image_ranks),
                ("text to picture", best_ranks(texts, images, images_of_text)),
            )
            for depth in DEPTHS
        }
        worst = np.argsort(-image_ranks, kind="stable")[:MAX_EXAMPLES]
        return MetricResult(
            figures | {"pictures": len(images), "texts": len(texts)},
            examples=tuple(
                ExampleImage("worst", self._queries[row], (), f"its text ranks {image_ranks[row] + 1} of {len(texts)}")
                for row in worst.tolist()
                if image_ranks[row]
            ),
        )


def best_ranks(rows: Float32, columns: Float32, matches: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """0-based rank [N] of the most similar match of each row [N, D] among the columns [M, D], by cosine."""
    found: list[int] = []
    for start in range(0, len(rows), CHUNK):
        cosines = rows[start : start + CHUNK] @ columns.T
        for row, values in enumerate(cosines, start):
            found.append(int((values > values[list(matches[row])].max()).sum()))
    return np.asarray(found, np.int64)
