"""Bodies of answers, and of the administrator's requests."""

from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from server.contract.manifest import Certificate, Certified, Task
from server.memory.memory_budget import HostBudget, HostFootprint

# Path of the admin endpoints.
ADMIN_BUNDLES = "/admin/bundles"


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


class FieldProblem(BaseModel):
    """A field and what is to be said about it."""

    field: str
    reason: str


class ImageProblem(BaseModel):
    """The reason why one image of a request got no result (RFC 9457)."""

    index: int = Field(description="The image, from 0.")
    type: str = Field(description="A stable name for the kind.", examples=["urn:openset:problem:broken-image"])
    title: str
    status: int
    detail: str


Problems = Annotated[
    list[ImageProblem] | None,
    Field(description="With `on_error` skip, the images that have no result: their entries are empty."),
]
Warnings = Annotated[
    list[FieldProblem] | None,
    Field(description="Labels and texts that the model cannot know, or that were probably meant otherwise."),
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
    """The detections of one image, best first; of one that was skipped none, in an image of 0 x 0 pixels."""

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
    problems: Problems = None
    warnings: Warnings = None
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
    problems: Problems = None
    warnings: Warnings = None
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
    problems: Problems = None
    warnings: Warnings = None
    timings_ms: Timings


class EmbedAnswer(BaseModel):
    """Unit-length embeddings of images and texts, in their order: a dot product is a cosine."""

    model: ModelId
    images: list[list[float]]
    texts: list[list[float]]
    problems: Problems = None
    warnings: Warnings = None
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
    card: str | None = Field(None, description="Address of its model card, relative to the page's; null without one.")
    defaults: dict[str, Any] = Field(description="Values of options that a request does not set.")
    limits: dict[str, int]
    memory: HostFootprint
    artefacts: list[ArtefactBody]


class ModelsAnswer(BaseModel):
    """The models being served; the first that supports a task is its default."""

    models: list[ModelBody]
    limits: dict[str, int | float] = Field(description="Limits of a request.")
    url_images: bool = Field(False, description="Whether a request may give URLs of images.")
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


class Problem(BaseModel):
    """The reason why a request got no result (RFC 9457)."""

    type: str = Field(description="A stable name for the kind of problem.", examples=["urn:openset:problem:queue-full"])
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = None
    index: int | None = Field(None, description="The image that it is about, from 0, where it is one image.")
    request_id: str | None = Field(None, description="The id in the header X-Request-ID and in the server's log.")
    error: str | None = Field(None, description="Below /v2: `detail`, under the name of the Open Inference Protocol.")


JobEndpoint = Literal["/detect", "/classify", "/similarity", "/embed"]
JobState = Literal["queued", "running", "succeeded", "failed"]


class JobBody(BaseModel):
    """A job: a request whose answer is fetched later."""

    model_config = ConfigDict(title="Job")

    id: str = Field(description="Its name in `/jobs/{id}`.")
    endpoint: JobEndpoint = Field(description="The endpoint whose answer it will have.")
    state: JobState = Field(description="`succeeded`: `/jobs/{id}/result` has the answer. `failed`: see `problem`.")
    images: int = Field(description="Number of its images.")
    images_done: int = Field(description="Number of those that are done.")
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = Field(None, description="Once it has ended: when it will be forgotten.")
    problem: Problem | None = Field(None, description="The reason why it failed.")


class JobsAnswer(BaseModel):
    """Jobs of a client, oldest first."""

    jobs: list[JobBody]


class Health(BaseModel):
    """The server is healthy."""

    status: Literal["ok"] = "ok"
