"""Pure functions shared by both clients: the requests of each endpoint, and the reading of their answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

import httpx
from pydantic import BaseModel

from openset.images import ImageInputs, as_list
from openset.results import ClassifyAnswer, DetectAnswer, EmbedAnswer, SimilarityAnswer
from openset.splitting import Limits
from openset.vision_call import OnError, Progress, VisionAnswer, VisionCall

TIMEOUT_S, RETRIES = 60.0, 4
# A list is taken as it is; a string as the server reads one: labels separated by commas, or one sentence.
Texts = str | Sequence[str]
Task = Literal["detect", "classify", "similarity", "embed"]
_LISTS = ("labels", "templates", "texts")


class CallOptions(TypedDict, total=False):
    """Options of every call about images."""

    model: str | None
    on_error: OnError  # "skip": an image that cannot be read has an empty result, and is in the answer's `problems`
    progress: Progress | None  # called with the number of images done, and of all, after each request


class DetectOptions(CallOptions, total=False):
    """Options of /detect: `labels` or a `prompt`; each that is left out has the model's own default."""

    labels: Texts | None
    prompt: str | None  # a caption: phrases that each end with a full stop
    box_threshold: float | None  # least score of a detection
    label_thresholds: Sequence[float | None] | None  # of each label, None for `box_threshold`
    text_threshold: float | None  # least score of a word to be reported as `matched`
    nms_iou: float | None  # overlap above which the weaker of two boxes of one label goes; 1 keeps all
    nms_across_labels: bool | None  # a box suppresses those of other labels too
    max_detections: int | None
    shorter: int | None  # shorter side in pixels that images are resized to; smaller is faster
    longer: int | None  # most pixels of the longer side
    label_scores: bool | None  # with each detection the scores of all labels


class ClassifyOptions(CallOptions, total=False):
    """Options of /classify; each that is left out has the model's own default."""

    templates: Texts | None  # sentences with {} where the label goes
    multi_label: bool | None  # a score for each label on its own
    top_k: int | None


class SimilarityOptions(CallOptions, total=False):
    """Options of /similarity."""

    embeddings: bool | None


class LimitsAnswer(BaseModel):
    """Part of the answer of /models that splitting needs: servers of other versions differ in the rest."""

    limits: Limits = Limits()


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
    return _call("/detect", DetectAnswer, images, options, DetectOptions, {"box_format": "xyxy"})


def classify_call(images: ImageInputs, labels: Texts, options: ClassifyOptions) -> VisionCall[ClassifyAnswer]:
    """Build the call of /classify."""
    return _call("/classify", ClassifyAnswer, images, options, ClassifyOptions, {"labels": _texts("labels", labels)})


def similarity_call(images: ImageInputs, texts: Texts, options: SimilarityOptions) -> VisionCall[SimilarityAnswer]:
    """Build the call of /similarity."""
    more = {"texts": _texts("texts", texts)}
    return _call("/similarity", SimilarityAnswer, images, options, SimilarityOptions, more, rows="similarity")


def embed_call(images: ImageInputs, texts: Texts, options: CallOptions) -> VisionCall[EmbedAnswer]:
    """Build the call of /embed, for which texts are enough."""
    more = {"texts": _texts("texts", texts)} if texts else {}
    return _call("/embed", EmbedAnswer, images, options, CallOptions, more, rows="images")


def _call(
    path: str,
    answer: type[VisionAnswer],
    images: ImageInputs,
    options: Mapping[str, Any],
    known: type,
    more: Mapping[str, str | list[str]],
    *,
    rows: str = "results",
) -> VisionCall[VisionAnswer]:
    given = dict(options)
    on_error, progress = given.pop("on_error", "raise"), given.pop("progress", None)
    if on_error not in ("raise", "skip"):
        raise ValueError(f'on_error must be "raise" or "skip", got {on_error!r}')
    texts_alone = path == "/embed" and "texts" in more and isinstance(images, Sequence) and not images
    listed = [] if texts_alone else as_list(images, files_exist=on_error == "raise")
    return VisionCall(path, {**_fields(given, known), **more}, listed, answer, rows, on_error, progress)


def _fields(options: Mapping[str, Any], known: type) -> dict[str, str | list[str]]:
    """Convert options to the texts of a form, without those that are None; TypeError for one that is not `known`."""
    if unknown := options.keys() - known.__annotations__.keys():
        names = ", ".join(known.__annotations__)
        raise TypeError(f"there is no option {', '.join(sorted(unknown))}; there are {names}")
    return {
        name: _texts(name, value) if name in _LISTS else _text(value)
        for name, value in options.items()
        if value is not None
    }


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        raise TypeError(f"a list is expected (label_thresholds: one for each label, in order, or None), got {value!r}")
    if isinstance(value, list | tuple):
        return ",".join("null" if item is None else str(item) for item in value)
    return str(value)


def _texts(name: str, value: Texts) -> str | list[str]:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping):
        raise TypeError(f"{name} must be a list of strings, got the dict {value!r}")
    texts = list(value)
    for text in texts:
        if not isinstance(text, str):
            raise TypeError(f"{name} must be strings, got {type(text).__name__}")
    return texts
