"""Pure functions shared by both clients: the requests of each endpoint, and the reading of their answers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypedDict, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from openset.errors import AnswerError, ClientError, excerpt, problem_error
from openset.images import ImageInput, ImageInputs, Url, as_list, encoded
from openset.results import ClassifyAnswer, DetectAnswer, Embeddings, SimilarityAnswer
from openset.splitting import Fields, Limits, split

TIMEOUT_S, RETRIES = 60.0, 4
Texts = str | Sequence[str]  # one string is one text
Answer = TypeVar("Answer", bound=BaseModel)
VisionAnswer = TypeVar("VisionAnswer", DetectAnswer, ClassifyAnswer, SimilarityAnswer)


class DetectOptions(TypedDict, total=False):
    """Options of /detect: `labels` or a `prompt`; each that is left out has the model's own default."""

    labels: Texts | None
    prompt: str | None  # a caption: phrases that each end with a full stop
    model: str | None
    box_threshold: float | None  # least score of a detection
    text_threshold: float | None  # least score of a word to be reported as `matched`
    nms_iou: float | None  # overlap above which the weaker of two boxes of one label goes; 1 keeps all
    max_detections: int | None
    label_scores: bool | None  # with each detection the scores of all labels


class ClassifyOptions(TypedDict, total=False):
    """Options of /classify; each that is left out has the model's own default."""

    model: str | None
    templates: Texts | None  # sentences with {} where the label goes
    multi_label: bool | None  # a score for each label on its own
    top_k: int | None


class SimilarityOptions(TypedDict, total=False):
    """Options of /similarity."""

    model: str | None
    embeddings: bool | None


class LimitsAnswer(BaseModel):
    """Part of the answer of /models that splitting needs: servers of other versions differ in the rest."""

    limits: Limits = Limits()


@dataclass(frozen=True)
class VisionCall(Generic[VisionAnswer]):
    """A call about images: the requests it takes, and one answer from theirs; `rows` has an item per image."""

    path: str
    fields: Fields
    images: list[ImageInput]
    answer: type[VisionAnswer]
    rows: str = "results"

    def batches(self, limits: Limits) -> Iterator[list[bytes | Url]]:
        """Images of each request, encoded as they are needed."""
        return split(map(encoded, self.images), self.fields, limits)

    def content(self, batch: Sequence[bytes | Url]) -> dict[str, Any]:
        """Content of a request as httpx takes it: a form with nameless files, or JSON with URLs."""
        files = [("image", ("image", image, "application/octet-stream")) for image in batch if isinstance(image, bytes)]
        if files:
            return {"data": self.fields, "files": files}
        return {"json": {"image_urls": [image.address for image in batch if isinstance(image, Url)], **self.fields}}

    def read(self, response: httpx.Response, batch: Sequence[bytes | Url]) -> VisionAnswer:
        """Read the answer for one batch."""
        answer = read(response, self.answer)
        if (count := len(getattr(answer, self.rows))) != len(batch):
            raise AnswerError(f"{self.path} answered {count} results for {len(batch)} images")
        return answer

    @contextmanager
    def noted(self, done: int, batch: Sequence[bytes | Url]) -> Iterator[None]:
        """Add to an error which of several images its request had, `done` being the number of images before."""
        try:
            yield
        except ClientError as error:
            if len(batch) < len(self.images):
                error.add_note(f"the request had images {done + 1} to {done + len(batch)} of {len(self.images)}")
            raise

    def join(self, answers: Sequence[VisionAnswer]) -> VisionAnswer:
        """Join the answers of all batches: their rows in order, their timings added up."""
        first = answers[0]
        for answer in answers:
            if answer.model != first.model:
                models = f"{first.model!r} and {answer.model!r}"
                raise AnswerError(f"the parts of one call were answered by different models: {models}")
        stages = dict.fromkeys(stage for answer in answers for stage in answer.timings_ms)
        update: dict[str, Any] = {
            self.rows: [row for answer in answers for row in getattr(answer, self.rows)],
            "timings_ms": {stage: round(sum(a.timings_ms.get(stage, 0.0) for a in answers), 3) for stage in stages},
        }
        parts = [part for answer in answers if (part := getattr(answer, "embeddings", None))]
        if len(parts) == len(answers):
            update["embeddings"] = Embeddings(
                images=[row for part in parts for row in part.images], texts=parts[0].texts
            )
        return first.model_copy(update=update)


def base_url(url: str) -> httpx.URL:
    """Check the server's address; ValueError names one that cannot be."""
    try:
        address = httpx.URL(url)
        address.host.encode("idna")  # as the resolver does, whose errors are no client's
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"{url!r} is no URL: {error}") from None
    if address.scheme not in ("http", "https") or not address.host or address.query or address.fragment:
        raise ValueError(f"the server's address must be like http://localhost:8000, got {url!r}")
    return address


def headers(api_key: str | None) -> dict[str, str]:
    """Headers of every request."""
    accepted = {"Accept": "application/json, application/problem+json;q=0.9"}
    return accepted if api_key is None else accepted | {"Authorization": f"Bearer {api_key}"}


def detect_call(images: ImageInputs, options: DetectOptions) -> VisionCall[DetectAnswer]:
    """Build the call of /detect."""
    fields = _fields(options, DetectOptions) | {"box_format": "xyxy"}
    return VisionCall("/detect", fields, as_list(images), DetectAnswer)


def classify_call(images: ImageInputs, labels: Texts, options: ClassifyOptions) -> VisionCall[ClassifyAnswer]:
    """Build the call of /classify."""
    fields = _fields(options, ClassifyOptions) | {"labels": _texts("labels", labels)}
    return VisionCall("/classify", fields, as_list(images), ClassifyAnswer)


def similarity_call(images: ImageInputs, texts: Texts, options: SimilarityOptions) -> VisionCall[SimilarityAnswer]:
    """Build the call of /similarity."""
    fields = _fields(options, SimilarityOptions) | {"texts": _texts("texts", texts)}
    return VisionCall("/similarity", fields, as_list(images), SimilarityAnswer, rows="similarity")


def read(response: httpx.Response, kind: type[Answer]) -> Answer:
    """Read an answer; ProblemError for a refusal, AnswerError for what no Openset server answers."""
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


def is_ready(response: httpx.Response) -> bool:
    """Read the answer of /readyz, where 503 means: not yet."""
    if not response.is_success and response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        raise problem_error(response)
    return response.is_success


def _fields(options: Mapping[str, Any], known: type) -> dict[str, str | list[str]]:
    """Convert options to the texts of a form, without those that are None; TypeError for one that is not `known`."""
    if unknown := options.keys() - known.__annotations__.keys():
        names = ", ".join(known.__annotations__)
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}; there are {names}")
    return {
        name: _texts(name, value) if name in ("labels", "templates") else _text(value)
        for name, value in options.items()
        if value is not None
    }


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _texts(name: str, value: Texts) -> list[str]:
    texts = [value] if isinstance(value, str) else list(value)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be strings, got {type(text).__name__}")
    return texts
