"""The calls of both clients: what is sent, in how many parts, and what its answers mean together."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, TypedDict, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from server.client.detections import Detected
from server.client.errors import AnswerError, ClientError, excerpt, problem_error
from server.client.parts import Limits, Part
from server.client.pictures import Pictures, encoded, one_by_one
from server.client.retries import Clock, Retries, persistent
from server.client.steps import Fields, Send, Steps, Work
from server.schemas import ClassifyAnswer, Embeddings, ModelId, ModelsAnswer, SimilarityAnswer

Texts = str | Sequence[str]  # one string is one text
Answer = TypeVar("Answer", bound=BaseModel)
VisionAnswer = TypeVar("VisionAnswer", Detected, ClassifyAnswer, SimilarityAnswer)
_MODELS = Send("GET", "/models")


class DetectOptions(TypedDict, total=False):
    """What to find (`labels` or `prompt`) and how; what is left out is the model's own."""

    labels: Texts | None
    prompt: str | None  # a caption: phrases that each end with a full stop
    model: str | None
    box_threshold: float | None  # least score of a detection
    text_threshold: float | None  # least score of a word to be reported as `matched`
    nms_iou: float | None  # overlap above which the weaker of two boxes of one label goes; 1 keeps all
    max_detections: int | None
    label_scores: bool | None  # with each detection the scores of all labels


class ClassifyOptions(TypedDict, total=False):
    """How to compare images with labels; what is left out is the model's own."""

    model: str | None
    templates: Texts | None  # sentences with {} where the label goes
    multi_label: bool | None  # a score for each label on its own
    top_k: int | None


class SimilarityOptions(TypedDict, total=False):
    """What else to answer."""

    model: str | None
    embeddings: bool | None


class _Bounded(BaseModel):
    """Of the answer of /models the part that splitting needs: servers of other versions differ in the rest."""

    limits: Limits = Limits()


class Calls:
    """Every method of a client as steps; they differ in who carries them out."""

    def __init__(self, retries: Retries, clock: Clock) -> None:
        self._retries, self._clock = retries, clock
        self._limits: Limits | None = None

    def detect(self, images: Pictures, options: DetectOptions) -> Steps[Detected]:
        """POST /detect."""
        fields = _fields(options, DetectOptions) | {"box_format": "xyxy"}
        parts = yield from self._ask("/detect", images, fields, Detected)
        results = [result for part in parts for result in part.results]
        return parts[0].model_copy(update={"results": results, "timings_ms": _timings(parts)})

    def classify(self, images: Pictures, labels: Texts, options: ClassifyOptions) -> Steps[ClassifyAnswer]:
        """POST /classify."""
        fields = _fields(options, ClassifyOptions) | {"labels": _texts("labels", labels)}
        parts = yield from self._ask("/classify", images, fields, ClassifyAnswer)
        results = [result for part in parts for result in part.results]
        return parts[0].model_copy(update={"results": results, "timings_ms": _timings(parts)})

    def similarity(self, images: Pictures, texts: Texts, options: SimilarityOptions) -> Steps[SimilarityAnswer]:
        """POST /similarity."""
        fields = _fields(options, SimilarityOptions) | {"texts": _texts("texts", texts)}
        parts = yield from self._ask("/similarity", images, fields, SimilarityAnswer)
        similarity = [row for part in parts for row in part.similarity]
        return parts[0].model_copy(
            update={"similarity": similarity, "embeddings": _embeddings(parts), "timings_ms": _timings(parts)}
        )

    def models(self) -> Steps[ModelsAnswer]:
        """GET /models."""
        return (yield from self._answer(_MODELS, ModelsAnswer))

    def ready(self) -> Steps[bool]:
        """GET /readyz, once: whether it may be asked is the question, so "not yet" is no failure."""
        try:
            response = yield from Send("GET", "/readyz").sent()
        except httpx.RequestError:
            return False
        if not response.is_success and response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
            raise problem_error(response)
        return response.is_success

    def _ask(self, path: str, images: Pictures, fields: Fields, kind: type[VisionAnswer]) -> Steps[list[VisionAnswer]]:
        """The answers of as many requests as the images need, in their order."""
        pictures = one_by_one(images)
        limits = (yield from self._known_limits()) if len(pictures) > 1 else Limits()
        answers: list[VisionAnswer] = []
        part = Part(path, fields, limits)
        for place, picture in enumerate(pictures):
            image = yield from Work(partial(encoded, picture)).done()
            if not part.takes(image):
                answers.append((yield from self._ask_part(part, kind, end=place, total=len(pictures))))
                part = Part(path, fields, limits)
            part.add(image)
        answers.append((yield from self._ask_part(part, kind, end=len(pictures), total=len(pictures))))
        _check_same([answer.model for answer in answers])
        return answers

    def _known_limits(self) -> Steps[Limits]:
        if self._limits is None:
            answer = yield from self._answer(_MODELS, _Bounded)
            self._limits = answer.limits
        return self._limits

    def _ask_part(self, part: Part, kind: type[VisionAnswer], *, end: int, total: int) -> Steps[VisionAnswer]:
        """One request; `end` is the place behind its last image, which an error tells where there are more."""
        count = len(part.images)
        try:
            answer = yield from self._answer(part.request(), kind)
            rows = answer.similarity if isinstance(answer, SimilarityAnswer) else answer.results
            if len(rows) != count:
                raise AnswerError(f"{part.path} answered {len(rows)} results for {count} images")
        except ClientError as error:
            if count < total:
                error.add_note(f"the request had images {end - count + 1} to {end} of {total}")
            raise
        return answer

    def _answer(self, request: Send, kind: type[Answer]) -> Steps[Answer]:
        response = yield from persistent(request, self._retries, self._clock)
        if not response.is_success:
            raise problem_error(response)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            fault = error.errors(include_input=False)[0]
            place = ".".join(map(str, fault["loc"]))
            raise AnswerError(
                f"{response.url} answered {response.status_code}, but not as an Openset server does"
                f" ({place + ': ' if place else ''}{fault['msg']}): {excerpt(response)}"
            ) from None


def _fields(options: Mapping[str, Any], known: type) -> dict[str, str | list[str]]:
    """Options as the texts of a form, without those that are None; TypeError for one that is not `known`."""
    if unknown := options.keys() - known.__annotations__.keys():
        raise TypeError(
            f"there is no option {', '.join(sorted(unknown))}; there are {', '.join(known.__annotations__)}"
        )
    return {name: _text_or_texts(name, value) for name, value in options.items() if value is not None}


def _text_or_texts(name: str, value: Any) -> str | list[str]:
    if name in ("labels", "templates"):
        return _texts(name, value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _texts(name: str, value: Texts) -> list[str]:
    texts = [value] if isinstance(value, str) else list(value)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be strings, got {type(text).__name__}")
    return texts


def _check_same(models: Sequence[ModelId]) -> None:
    for model in models:
        if model != models[0]:
            raise AnswerError(f"the parts of one call were answered by different models: {models[0]!r} and {model!r}")


def _timings(parts: Sequence[Detected | ClassifyAnswer | SimilarityAnswer]) -> dict[str, float]:
    """Milliseconds per stage, those of the parts added up."""
    names = dict.fromkeys(name for part in parts for name in part.timings_ms)
    return {name: round(sum(part.timings_ms.get(name, 0.0) for part in parts), 3) for name in names}


def _embeddings(parts: Sequence[SimilarityAnswer]) -> Embeddings | None:
    each = [part.embeddings for part in parts if part.embeddings is not None]
    if len(each) < len(parts):
        return None
    return Embeddings(images=[row for part in each for row in part.images], texts=each[0].texts)
