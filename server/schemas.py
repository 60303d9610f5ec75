"""Bodies of requests and responses; unknown fields are refused, so that no misspelt threshold is ignored."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from server.contract.manifest import Certificate, Certified, Task
from server.json_text import decode_base64
from server.memory.memory_budget import HostBudget, HostFootprint

# Path of the admin endpoints.
ADMIN_BUNDLES = "/admin/bundles"
BoxFormat = Literal["xyxy", "xywh", "cxcywh", "xyxyn", "xywhn", "cxcywhn"]
# Upper bound of any list, to bound the work of parsing; the limits of a request are settings, checked later.
MAX_ITEMS = 100_000
# A red disc, 16 x 16 pixels: a working example that is short.
EXAMPLE_IMAGE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAS0lEQVR42mP88OEDAymAiYFEQLIGFkyhG3p6cLbGpUsEbEBWjclF"
    "14ApjSnIhF81phTtQ4kCDZghiFWKCZcELkEm/NKYRjAOvsQHAFrOGsECaDVqAAAAAElFTkSuQmCC"
)


def _image_bytes(value: object, info: ValidationInfo) -> object:
    if isinstance(value, bytes):  # a file from a form
        return value
    if not isinstance(value, str):
        raise PydanticCustomError("image", "an image must be base64 text (in a form: a file)")
    try:
        return decode_base64((info.context or {}).get(value, value))
    except ValueError:
        raise PydanticCustomError("image", "this is not valid base64") from None


def _visible(value: object) -> object:
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("text", "a text must contain a visible character")
    return value


def _has_placeholder(value: object) -> object:
    if isinstance(value, str) and "{}" not in value:
        raise PydanticCustomError("template", "a template must contain {}, which is replaced by the label")
    return value


def _not_empty(value: tuple[str, ...]) -> tuple[str, ...]:
    # Not `min_length`, which also reports a list whose items were refused.
    if not value:
        raise PydanticCustomError("empty", "give at least one")
    return value


ImageBytes = Annotated[
    bytes,
    BeforeValidator(_image_bytes),
    WithJsonSchema({"type": "string", "contentEncoding": "base64", "description": "Base64, or a data: URL."}),
]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
# The length comes first: after a validator its message would speak of "items".
Text = Annotated[str, StringConstraints(max_length=1000), BeforeValidator(_visible)]
Caption = Annotated[str, StringConstraints(max_length=10_000), BeforeValidator(_visible)]
Template = Annotated[str, StringConstraints(max_length=1000), BeforeValidator(_has_placeholder)]
Item = TypeVar("Item")
# Parsing ends at the first wrong item: a million errors would take gigabytes.
Items = Annotated[tuple[Item, ...], FailFast(), Field(max_length=MAX_ITEMS)]
SomeTexts = Annotated[Items[Text], AfterValidator(_not_empty), Field(json_schema_extra={"minItems": 1})]
Ratio = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    image: ImageBytes | None = Field(None, description="One image; for several use `images`.", examples=[EXAMPLE_IMAGE])
    images: Items[ImageBytes] = Field((), description="Several images; results are in their order.")
    image_url: Url | None = Field(
        None, description="The https URL of one image, if the server downloads images (setting `url_images`)."
    )
    image_urls: Items[Url] = Field((), description="URLs of several images; results are in their order.")
    model: str | None = Field(
        None,
        max_length=200,
        description="Name or family of the model, as in `GET /models`; by default the first that supports the task.",
    )

    @model_validator(mode="after")
    def _has_one_source(self) -> "_Request":
        given = (self.image is not None, bool(self.images), self.image_url is not None, bool(self.image_urls))
        if sum(given) != 1:
            raise PydanticCustomError(
                "images", "give one of 'image', 'images', 'image_url' and 'image_urls', with at least one image"
            )
        return self

    @property
    def pictures(self) -> tuple[bytes, ...]:
        """The encoded images, in order."""
        return self.images if self.image is None else (self.image,)

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of the images, if they are not in the request."""
        return self.image_urls if self.image_url is None else (self.image_url,)


class DetectRequest(_Request):
    """Images, and the objects to detect: a caption (`prompt`) or a list (`labels`)."""

    prompt: Caption | None = Field(
        None,
        description="A caption: phrases, each ended by a full stop.",
        examples=["a dog. a bicycle."],
    )
    labels: Items[Text] = Field(
        (),
        description="Objects to detect. A label is returned exactly as written, `label_id` is its index in this list.",
        examples=[["a dog", "a bicycle"]],
    )
    box_threshold: Ratio | None = Field(
        None, description="Minimum score of a detection; the model's own by default.", examples=[0.3]
    )
    text_threshold: Ratio | None = Field(
        None, description="Minimum score of a word reported as `matched`; the model's own by default."
    )
    nms_iou: Ratio | None = Field(
        None, description="IoU above which the weaker of two boxes of one label is dropped (NMS); 1 keeps all."
    )
    max_detections: int | None = Field(None, ge=1, le=10_000, description="Maximum number of detections per image.")
    box_format: BoxFormat = Field(
        "xyxy",
        description="`xyxy`: x0, y0, x1, y1; `xywh`: x0, y0, width, height; `cxcywh`: centre x, y, width, height."
        " In pixels of the upright image; with a final `n`, as shares of its width and height, 0 to 1.",
        examples=["xyxyn"],
    )
    label_scores: bool = Field(
        False, description="Return the scores of all labels with each detection, not only that of its own."
    )

    @model_validator(mode="after")
    def _has_one_prompt(self) -> "DetectRequest":
        if (self.prompt is None) == (not self.labels):
            raise PydanticCustomError("prompt", "give either 'prompt' or 'labels'")
        return self


class ClassifyRequest(_Request):
    """Images, and the candidate labels."""

    labels: SomeTexts = Field(description="The candidate labels.", examples=[["dog", "cat"]])
    templates: Items[Template] = Field(
        (),
        description="Sentences with `{}` in place of the label; embeddings of several are averaged. The model's own by"
        " default.",
        examples=[["a photo of a {}."]],
    )
    multi_label: bool = Field(
        False, description="An independent score for each label (sigmoid) instead of scores that add up to 1 (softmax)."
    )
    top_k: int | None = Field(None, ge=1, description="Number of labels returned, best first; all by default.")


class SimilarityRequest(_Request):
    """Images and texts, compared pairwise."""

    texts: SomeTexts = Field(description="The texts.", examples=[["a photo of a dog", "a photo of a cat"]])
    embeddings: bool = Field(False, description="Return the unit-length embeddings too.")


class ModelId(BaseModel):
    """The model that was run."""

    name: str
    family: str
    version: str


Timings = Annotated[
    dict[str, float],
    Field(
        description="Milliseconds per stage (for several images, of the slowest), and in total.",
        examples=[{"decode": 2.1, "preprocess": 3.0, "text_encode": 5.5, "queue": 0.1, "infer": 41.0, "total": 53.2}],
    ),
]


class DetectionBody(BaseModel):
    """One detected object."""

    box: tuple[float, float, float, float] = Field(description="Four numbers, in `box_format`.")
    label: str = Field(description="The label as written in the request.")
    label_id: int = Field(description="Its index in `labels`.")
    score: float = Field(description="0 to 1.")
    matched: list[tuple[int, int]] = Field(
        description="[start, end) character ranges of the label's words that score above `text_threshold`."
    )
    label_scores: list[float | None] | None = Field(
        None,
        description="If requested, the scores of all labels, by `label_id`. A label of another pass has the score of"
        " that pass's box with an IoU above 0.8, null if there is none.",
    )


class ImageDetections(BaseModel):
    """The detections of one image, best first."""

    width: int
    height: int
    labels: list[str] = Field(description="The labels, or the phrases of the caption.")
    label_spans: list[tuple[int, int]] | None = Field(
        None, description="For a caption: [start, end) character range of each phrase."
    )
    detections: list[DetectionBody]


class DetectAnswer(BaseModel):
    """Detections, per image in order."""

    model: ModelId
    passes: int = Field(1, description="Detector runs that the labels were split into, by the model's token limit.")
    results: list[ImageDetections]
    timings_ms: Timings


class LabelScore(BaseModel):
    """The score of a label."""

    label: str
    label_id: int
    score: float


class ImageScores(BaseModel):
    """The scores of one image, best first."""

    scores: list[LabelScore]


class ClassifyAnswer(BaseModel):
    """Scores, per image in order."""

    model: ModelId
    results: list[ImageScores]
    timings_ms: Timings


class Embeddings(BaseModel):
    """Unit-length embeddings."""

    images: list[list[float]]
    texts: list[list[float]]


class SimilarityAnswer(BaseModel):
    """Cosine similarities: a row per image, a column per text."""

    model: ModelId
    similarity: list[list[float]]
    logit_scale: float = Field(description="The softmax of `logit_scale` times a row gives probabilities.")
    embeddings: Embeddings | None = None
    timings_ms: Timings


class ArtefactBody(BaseModel):
    """A compiled part of a model."""

    part: str
    runtime: str
    precision: str
    sha256: str
    certified: bool
    fault: str | None = Field(None, description="Reason why it counts as uncertified.")
    in_use: bool
    provider: str | None = Field(
        None, description="Execution provider of an artefact in use, like CUDAExecutionProvider."
    )
    refused: str | None = Field(None, description="Reason why it is not used, though preferred to the one in use.")
    fallback: str | None = Field(None, description="Reason why it runs on the CPU although a GPU is configured.")
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
    certified: Certified = Field(
        description="Least that vouches for its graphs: a certificate with these weights, the template's, or none."
    )
    card: str | None = Field(description="Address of its model card, relative to the page's; null if it has none.")
    defaults: dict[str, Any] = Field(description="Values of options that a request does not set.")
    limits: dict[str, int]
    memory: HostFootprint
    artefacts: list[ArtefactBody]


class ModelsAnswer(BaseModel):
    """The models being served; the first that supports a task is its default."""

    models: list[ModelBody]
    limits: dict[str, int | float] = Field(description="Limits of a request.")
    memory: HostBudget


class BundlePath(BaseModel):
    """The bundle to serve."""

    model_config = ConfigDict(extra="forbid")

    path: Annotated[str, StringConstraints(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")] = Field(
        description="Its folder on the server, within `bundle_roots`; a relative path is looked up in each of them.",
        examples=["grounding-dino-swin-t"],
    )


class BundleBody(BaseModel):
    """A bundle being served, and its folder on the server."""

    name: str
    family: str
    version: str
    path: str


class BundlesAnswer(BaseModel):
    """The bundles being served; the first that supports a task is its default."""

    bundles: list[BundleBody]
    roots: list[str] = Field(description="Folders from which bundles may be added.")


class BundleChange(BaseModel):
    """A change of the bundles, and its duration; requests were answered meanwhile."""

    added: BundleBody | None = None
    removed: BundleBody | None = None
    load_s: float = Field(description="Seconds until the new bundle was served: its checks and its warm-up.")
    drain_s: float = Field(description="Seconds from then until the last request of the old bundle was answered.")
    bundles: list[BundleBody] = Field(description="The bundles being served now.")


class Health(BaseModel):
    """The server is healthy."""

    status: Literal["ok"] = "ok"


class FieldProblem(BaseModel):
    """A field and the reason why it is refused."""

    field: str
    reason: str


class Problem(BaseModel):
    """The reason why a request got no result (RFC 9457)."""

    type: str = Field(description="A stable name for the kind of problem.", examples=["urn:openset:problem:queue-full"])
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = None
    request_id: str | None = Field(None, description="The id in the header X-Request-ID and in the server's log.")
    error: str | None = Field(None, description="Below /v2: `detail`, under the name of the Open Inference Protocol.")
