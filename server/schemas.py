"""The bodies of requests and answers; unknown fields are refused, so that no threshold is ignored by a slip."""

import base64
import binascii
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from server.box_formats import BoxFormat
from server.contract.manifest import Certificate, Task
from server.memory.memory_budget import HostBudget, HostFootprint

# What bounds the work on a body that is all list; what a request may really have is a setting, checked later.
MAX_ITEMS = 100_000
_DATA_URL = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
# A red disc, 16 x 16: short enough to print, and it works.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAS0lEQVR42mP88OEDAymAiYFEQLIGFkyhG3p6cLbGpUsEbEBWjclF"
    "14ApjSnIhF81phTtQ4kCDZghiFWKCZcELkEm/NKYRjAOvsQHAFrOGsECaDVqAAAAAElFTkSuQmCC"
)


def _image_bytes(value: object) -> object:
    if isinstance(value, bytes):  # a file of a form
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("image", "an image must be base64 text (in a form: a file)")
    match = _DATA_URL.match(value)
    digits = "".join(value[match.end() if match else 0 :].split())  # the base64 command breaks lines
    try:
        return base64.b64decode(digits, validate=True)
    except (binascii.Error, ValueError):
        raise PydanticCustomError("image", "this is not valid base64") from None


def _visible(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("text", "a text must have a visible character")
    return value


def _has_place(value: object) -> object:
    if isinstance(value, str) and "{}" not in value:
        raise PydanticCustomError("template", "a template must have {} where the label goes")
    return value


def _not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    # Not `min_length`, which also blames a list whose items were refused.
    if not value:
        raise PydanticCustomError("empty", "give at least one")
    return value


ImageBytes = Annotated[
    bytes,
    BeforeValidator(_image_bytes),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "Base64, or a data: URL."}),
]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
# The length stands first: behind a validator it would count "items".
Text = Annotated[str, StringConstraints(max_length=1000), BeforeValidator(_visible)]
Caption = Annotated[str, StringConstraints(max_length=10_000), BeforeValidator(_visible)]
Template = Annotated[str, StringConstraints(max_length=1000), BeforeValidator(_has_place)]
Item = TypeVar("Item")
# The first item that does not fit ends the reading: a million faults would take gigabytes to tell.
Items = Annotated[tuple[Item, ...], FailFast(), Field(max_length=MAX_ITEMS)]
SomeTexts = Annotated[Items[Text], AfterValidator(_not_empty), Field(json_schema_extra={"minItems": 1})]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    image: ImageBytes | None = Field(None, description="One image. Several go in `images`.", examples=[EXAMPLE_IMAGE])
    images: Items[ImageBytes] = Field((), description="Several images, answered in their order.")
    image_url: Url | None = Field(
        None, description="The https URL of one image, where the server fetches URLs (setting `url_images`)."
    )
    image_urls: Items[Url] = Field((), description="URLs of several images, answered in their order.")
    model: str | None = Field(
        None,
        max_length=200,
        description="Name or family of the model, as in `GET /models`; by default the first that can do this.",
    )

    @model_validator(mode="after")
    def _has_images(self) -> "_Request":
        given = (self.image is not None, bool(self.images), self.image_url is not None, bool(self.image_urls))
        if sum(given) != 1:
            raise PydanticCustomError(
                "images", "give one of 'image', 'images', 'image_url' and 'image_urls', with at least one image"
            )
        return self

    @property
    def pictures(self) -> tuple[bytes, ...]:
        """The encoded images, in their order."""
        return self.images if self.image is None else (self.image,)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the images are, unless they came with the request."""
        return self.image_urls if self.image_url is None else (self.image_url,)


class DetectRequest(_Request):
    """Images and what to find in them: a caption (`prompt`) or a list (`labels`)."""

    prompt: Caption | None = Field(
        None,
        description="A caption: phrases that each end with a full stop.",
        examples=["a dog. a bicycle."],
    )
    labels: Items[Text] = Field(
        (),
        description="What to find. Each comes back exactly as written, with its place in this list as `label_id`.",
        examples=[["a dog", "a bicycle"]],
    )
    box_threshold: Ratio | None = Field(
        None, description="Least score of a detection; the model's own by default.", examples=[0.3]
    )
    text_threshold: Ratio | None = Field(
        None, description="Least score of a word to be reported as `matched`; the model's own by default."
    )
    nms_iou: Ratio | None = Field(
        None, description="Overlap above which the weaker of two boxes of one label goes; 1 keeps all."
    )
    max_detections: int | None = Field(None, ge=1, le=10_000, description="Most detections per image.")
    box_format: BoxFormat = Field(
        "xyxy",
        description="`xyxy`: x0, y0, x1, y1; `xywh`: x0, y0, width, height; `cxcywh`: centre x, y, width, height."
        " In pixels of the upright image; with an `n` at the end as shares of its width and height, 0 to 1.",
        examples=["xyxyn"],
    )
    label_scores: bool = Field(
        False, description="Return with each detection the scores of all labels, not of its own alone."
    )

    @model_validator(mode="after")
    def _asks_in_one_way(self) -> "DetectRequest":
        if (self.prompt is None) == (not self.labels):
            raise PydanticCustomError("prompt", "give either 'prompt' or 'labels'")
        return self


class ClassifyRequest(_Request):
    """Images and the candidate labels to choose among."""

    labels: SomeTexts = Field(description="The candidates.", examples=[["dog", "cat"]])
    templates: Items[Template] = Field(
        (),
        description="Sentences around a label, `{}` being its place; of several, the mean embedding is compared."
        " The model's own by default.",
        examples=[["a photo of a {}."]],
    )
    multi_label: bool = Field(
        False, description="A score for each label on its own (sigmoid) instead of shares that add up to 1 (softmax)."
    )
    top_k: int | None = Field(None, ge=1, description="Only so many labels, best first; all by default.")


class SimilarityRequest(_Request):
    """Images and texts to compare, each with each."""

    texts: SomeTexts = Field(description="The texts.", examples=[["a photo of a dog", "a photo of a cat"]])
    embeddings: bool = Field(False, description="Return the unit-length embeddings too.")


class ModelId(BaseModel):
    """Which model answered."""

    name: str
    family: str
    version: str


Timings = Annotated[
    dict[str, float],
    Field(
        description="Milliseconds per stage (of several images, the slowest), and in total.",
        examples=[{"decode": 2.1, "preprocess": 3.0, "text_encode": 5.5, "queue": 0.1, "infer": 41.0, "total": 53.2}],
    ),
]


class DetectionBody(BaseModel):
    """One box."""

    box: tuple[float, float, float, float] = Field(description="Four numbers as `box_format` says.")
    label: str = Field(description="The label as written in the request.")
    label_id: int = Field(description="Its place among `labels`.")
    score: float = Field(description="0 to 1.")
    matched: list[tuple[int, int]] = Field(
        description="[start, end) characters of the label's words that score above `text_threshold`."
    )
    label_scores: list[float | None] | None = Field(
        None,
        description="On request the score of each label, by `label_id`. Labels of another pass have that of its box of"
        " the same thing (intersection over union above 0.8), null where it has none.",
    )


class ImageDetections(BaseModel):
    """The detections of one image, best first."""

    width: int
    height: int
    labels: list[str] = Field(description="The labels, or the phrases of the caption.")
    label_spans: list[tuple[int, int]] | None = Field(
        None, description="For a caption: [start, end) characters of each phrase in it."
    )
    detections: list[DetectionBody]


class DetectAnswer(BaseModel):
    """Detections per image, in the order of the images."""

    model: ModelId
    passes: int = Field(1, description="How often the model was asked, as it reads only so many labels at once.")
    results: list[ImageDetections]
    timings_ms: Timings


class LabelScore(BaseModel):
    """One label's score."""

    label: str
    label_id: int
    score: float


class ImageScores(BaseModel):
    """The scores of one image, best first."""

    scores: list[LabelScore]


class ClassifyAnswer(BaseModel):
    """Scores per image, in the order of the images."""

    model: ModelId
    results: list[ImageScores]
    timings_ms: Timings


class Embeddings(BaseModel):
    """Unit-length embeddings."""

    images: list[list[float]]
    texts: list[list[float]]


class SimilarityAnswer(BaseModel):
    """Cosines: a row per image, a column per text."""

    model: ModelId
    similarity: list[list[float]]
    logit_scale: float = Field(description="A softmax over `logit_scale` times a row gives probabilities.")
    embeddings: Embeddings | None = None
    timings_ms: Timings


class ArtefactBody(BaseModel):
    """A compiled part of a model."""

    part: str
    runtime: str
    precision: str
    sha256: str
    certified: bool
    fault: str | None = Field(None, description="Why it counts as uncertified.")
    in_use: bool
    provider: str | None = Field(None, description="What runs it, if it is in use, such as CUDAExecutionProvider.")
    refused: str | None = Field(None, description="Why it is not used although it comes before the one in use.")
    fallback: str | None = Field(None, description="Why it runs on the processor although a GPU was asked for.")
    certificate: Certificate | None


class ModelBody(BaseModel):
    """A model being served."""

    name: str
    family: str
    version: str
    variant: str
    tasks: list[Task]
    licence: str
    source: str
    weights_sha256: str
    defaults: dict[str, Any] = Field(description="What a request gets that does not say otherwise.")
    limits: dict[str, int]
    memory: HostFootprint
    artefacts: list[ArtefactBody]


class ModelsAnswer(BaseModel):
    """The models being served; the first that can do a task is its default."""

    models: list[ModelBody]
    limits: dict[str, int | float] = Field(description="Bounds of a request.")
    memory: HostBudget


class BundlePath(BaseModel):
    """Which bundle to serve."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")] = Field(
        description="Its folder on the server, within `bundle_roots`; one that is not absolute lies in one of them.",
        examples=["grounding-dino-swin-t"],
    )


class BundleBody(BaseModel):
    """A bundle being served, and where it lies on the server."""

    name: str
    family: str
    version: str
    path: str


class BundlesAnswer(BaseModel):
    """The bundles being served; the first that can do a task is its default."""

    bundles: list[BundleBody]
    roots: list[str] = Field(description="Folders from within which bundles may be added.")


class BundleChange(BaseModel):
    """What changed, and how long it took: requests were answered all along."""

    added: BundleBody | None = None
    removed: BundleBody | None = None
    load_s: float = Field(description="Until requests were given to the new bundle: its checks and its warm-up.")
    drain_s: float = Field(description="From then until the last request of the one before was answered.")
    bundles: list[BundleBody] = Field(description="What is served now.")


class Health(BaseModel):
    """All is well."""

    status: Literal["ok"] = "ok"


class FieldProblem(BaseModel):
    """A field and what is wrong with it."""

    field: str
    reason: str


class Problem(BaseModel):
    """Why a request got no result (RFC 9457)."""

    type: str = Field(description="A stable name of the kind of problem.", examples=["urn:openset:problem:queue-full"])
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = None
    request_id: str | None = Field(None, description="As in the header X-Request-ID and in the server's log.")
    error: str | None = Field(None, description="Below /v2: `detail`, where the Open Inference Protocol looks for it.")
