"""A call about images: the requests it takes, and one answer from theirs."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import httpx

from openset.errors import AnswerError, ClientError, ImageError, ProblemError, named
from openset.images import ImageInput, Url, encoded, name_of
from openset.reading import read
from openset.results import (
    ClassifyAnswer,
    DetectAnswer,
    EmbedAnswer,
    Embeddings,
    ImageDetections,
    ImageProblem,
    ImageScores,
    SimilarityAnswer,
)
from openset.splitting import Fields, Limits, split

OnError = Literal["raise", "skip"]
# Called after each request with the number of images that are done, and of all.
Progress = Callable[[int, int], object]
VisionAnswer = TypeVar("VisionAnswer", DetectAnswer, ClassifyAnswer, SimilarityAnswer, EmbedAnswer)
# Characters that a text of a form may not have as it is, for it could be a list.
_OF_LISTS = set(",;|[.\n\r\t")
_UNSENT = {"type": "urn:openset:problem:unsent-image", "title": "The image cannot be sent", "status": 0}


@dataclass(frozen=True)
class Batch:
    """Images of one request, encoded, and the place of each among all that were given."""

    images: list[bytes | Url]
    indices: list[int]


@dataclass
class VisionCall(Generic[VisionAnswer]):
    """A call about images; `rows` is the member of the answer that has an item per image."""

    path: str
    fields: Fields
    images: list[ImageInput]
    answer: type[VisionAnswer]
    rows: str = "results"
    on_error: OnError = "raise"
    progress: Progress | None = None
    problems: list[ImageProblem] = field(default_factory=list)
    _answers: list[tuple[Batch, VisionAnswer]] = field(default_factory=list)

    def batches(self, limits: Limits) -> Iterator[Batch]:
        """Images of each request, encoded as they are needed; ImageError where none can be sent."""
        indices: list[int] = []

        def sendable() -> Iterator[bytes | Url]:
            for index, image in enumerate(self.images):
                try:
                    data = encoded(image)
                except ImageError as error:
                    if self.on_error == "raise":
                        raise
                    self._skip(index, detail=str(error), **_UNSENT)
                    continue
                indices.append(index)
                yield data

        start = 0
        for images in split(sendable(), self._form_fields, limits):
            if images or not self.images:
                yield Batch(images, indices[start : start + len(images)])
            elif not indices:
                raise ImageError(f"none of {len(self.images)} images can be sent: {self.problems[0].detail}")
            start += len(images)

    def content(self, batch: Batch) -> dict[str, Any]:
        """Content of a request as httpx takes it: a form with nameless files, or JSON with URLs."""
        skip = {"on_error": "skip"} if self.on_error == "skip" else {}
        pictures = [image for image in batch.images if isinstance(image, bytes)]
        if pictures:
            files = [("image", ("image", picture, "application/octet-stream")) for picture in pictures]
            return {"data": {**self._form_fields, **skip}, "files": files}
        urls = {"image_urls": [image.address for image in batch.images if isinstance(image, Url)]}
        return {"json": {**(urls if self.images else {}), **self.fields, **skip}}

    @property
    def _form_fields(self) -> Fields:
        return {
            name: value if isinstance(value, str) else list(map(_quoted, value)) for name, value in self.fields.items()
        }

    def take(self, response: httpx.Response, batch: Batch) -> None:
        """Read the answer for one batch, and tell the progress."""
        answer = read(response, self.answer)
        if (count := len(getattr(answer, self.rows))) != len(batch.images):
            raise AnswerError(f"{self.path} answered {count} results for {len(batch.images)} images")
        for problem in answer.problems:
            index = batch.indices[problem.index]
            self._skip(index, **problem.model_dump(exclude={"index", "image"}))
        self._answers.append((batch, answer))
        if self.progress:
            done = sum(len(done.images) for done, _ in self._answers)
            unsent = sum(problem.status == 0 for problem in self.problems)
            self.progress(min(done + unsent, len(self.images)), len(self.images))

    @contextmanager
    def concerning(self, batch: Batch) -> Iterator[None]:
        """Add to an error the image that it is about, or else the images that its request had."""
        try:
            yield
        except ProblemError as error:
            if error.index is not None and error.index < len(batch.indices):
                index = batch.indices[error.index]
                error.concern(index, name_of(self.images[index]))
            self._note(error, batch)
            raise
        except ClientError as error:
            self._note(error, batch)
            raise

    def _note(self, error: ClientError, batch: Batch) -> None:
        if batch.indices and len(batch.images) < len(self.images):
            first, last = batch.indices[0] + 1, batch.indices[-1] + 1
            error.add_note(f"the request had images {first} to {last} of {len(self.images)}")

    def _skip(self, index: int, *, detail: str, **members: Any) -> None:
        name = name_of(self.images[index])
        self.problems.append(ImageProblem(index=index, image=name or None, detail=named(detail, name), **members))

    def joined(self) -> VisionAnswer:
        """Join the answers of all batches: their rows by image, their timings added up."""
        answers = [answer for _, answer in self._answers]
        first = answers[0]
        for answer in answers:
            if answer.model != first.model:
                models = f"{first.model!r} and {answer.model!r}"
                raise AnswerError(f"the parts of one call were answered by different models: {models}")
        stages = dict.fromkeys(stage for answer in answers for stage in answer.timings_ms)
        update: dict[str, Any] = {
            self.rows: self._by_image(lambda answer: getattr(answer, self.rows)),
            "problems": sorted(self.problems, key=lambda problem: problem.index),
            "timings_ms": {stage: round(sum(a.timings_ms.get(stage, 0.0) for a in answers), 3) for stage in stages},
        }
        parts = [part for answer in answers if (part := getattr(answer, "embeddings", None))]
        if len(parts) == len(answers):
            rows = self._by_image(lambda answer: getattr(answer, "embeddings").images)  # noqa: B009 (not of all answers)
            update["embeddings"] = Embeddings(images=rows, texts=parts[0].texts)
        return first.model_copy(update=update)

    def _by_image(self, rows_of: Callable[[VisionAnswer], Sequence[Any]]) -> list[Any]:
        rows = {
            index: row
            for batch, answer in self._answers
            for index, row in zip(batch.indices, rows_of(answer), strict=True)
        }
        return [
            rows[index] if index in rows else self._empty(next(iter(rows.values())))
            for index in range(len(self.images))
        ]

    @staticmethod
    def _empty(like: Any) -> Any:
        """The row of an image that was not sent, as the server has it for one that it skips."""
        if isinstance(like, ImageDetections):
            return like.model_copy(update={"width": 0, "height": 0, "detections": []})
        return ImageScores(scores=[]) if isinstance(like, ImageScores) else []


def _quoted(text: str) -> str:
    """A text of a list as one value of a form, which keeps it whole."""
    return json.dumps([text]) if not text or text != text.strip() or _OF_LISTS & set(text) else text
