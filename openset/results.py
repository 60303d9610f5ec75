"""Answers of a server, with detections that convert to the forms of other tools.

The models have the fields of the server's own; those that a newer server adds are ignored.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from pydantic import BaseModel

if TYPE_CHECKING:
    import supervision

BoxFormat = Literal["xyxy", "xywh", "cxcywh", "xyxyn", "xywhn", "cxcywhn"]
Box = tuple[float, float, float, float]


class CocoResult(TypedDict):
    """Entry of a COCO results file; `bbox` is x, y, width, height in pixels."""

    image_id: int
    category_id: int
    bbox: list[float]
    score: float


class ModelId(BaseModel):
    """The model that answered."""

    name: str
    family: str
    version: str


class Detection(BaseModel):
    """One box x0, y0, x1, y1 in pixels, with the label as given, its place among the labels, and a score 0 to 1.

    `matched` are the [start, end) characters of the label's words above `text_threshold`; `label_scores` come on
    request, by label_id.
    """

    box: Box
    label: str
    label_id: int
    score: float
    matched: list[tuple[int, int]]
    label_scores: list[float | None] | None = None


class ImageDetections(BaseModel):
    """Detections of one image, best first; of a caption, `labels` are its phrases and `label_spans` their places."""

    width: int
    height: int
    labels: list[str]
    label_spans: list[tuple[int, int]] | None = None
    detections: list[Detection]

    def boxes(self, box_format: BoxFormat = "xyxy") -> list[Box]:
        """Boxes in another format; those that end with "n" are shares of the image's width and height, 0 to 1."""
        return [_formatted(found.box, box_format, self.width, self.height) for found in self.detections]

    def to_coco(self, *, image_id: int, categories: Mapping[str, int] | None = None) -> list[CocoResult]:
        """Entries of a COCO results file; `categories` maps labels to ids, by default label_id + 1."""
        if categories is not None and (missing := {found.label for found in self.detections} - categories.keys()):
            raise ValueError(f"categories has no id for {', '.join(map(repr, sorted(missing)))}")
        return [
            {
                "image_id": image_id,
                "category_id": found.label_id + 1 if categories is None else categories[found.label],
                "bbox": list(_formatted(found.box, "xywh", self.width, self.height)),
                "score": found.score,
            }
            for found in self.detections
        ]

    def to_supervision(self) -> "supervision.Detections":
        """Convert to `supervision.Detections`: `class_id` is label_id, `data["class_name"]` the label."""
        try:
            import supervision
        except ModuleNotFoundError as error:
            if error.name != "supervision":
                raise
            message = "to_supervision() needs the package supervision, which is not installed: pip install supervision"
            raise ModuleNotFoundError(message, name="supervision") from error
        import numpy as np

        found = self.detections
        return supervision.Detections(
            xyxy=np.array([each.box for each in found], np.float32).reshape(-1, 4),
            confidence=np.array([each.score for each in found], np.float32),
            class_id=np.array([each.label_id for each in found], np.int64),
            data={"class_name": np.array([each.label for each in found], np.str_)},
        )


class FieldProblem(BaseModel):
    """A field of a request and what is to be said about it."""

    field: str
    reason: str


class ImageProblem(BaseModel):
    """The reason why one image has no result: `index` among the images given, `image` its path or URL.

    `type` is a stable name; `status` is 0 for an image that was not sent.
    """

    index: int
    image: str | None = None
    type: str
    title: str
    status: int
    detail: str


class DetectAnswer(BaseModel):
    """Answer of /detect: detections per image, in the order of the images.

    With `on_error="skip"` an image of `problems` has an empty result. `warnings` tell of labels that the model's
    vocabulary does not know, and of those that were probably meant otherwise.
    """

    model: ModelId
    passes: int = 1
    results: list[ImageDetections]
    problems: list[ImageProblem] = []
    warnings: list[FieldProblem] = []
    timings_ms: dict[str, float]


class LabelScore(BaseModel):
    """Score of one label."""

    label: str
    label_id: int
    score: float


class ImageScores(BaseModel):
    """Scores of one image, best first."""

    scores: list[LabelScore]


class ClassifyAnswer(BaseModel):
    """Answer of /classify: scores per image, in the order of the images; `problems` and `warnings` as of /detect."""

    model: ModelId
    results: list[ImageScores]
    problems: list[ImageProblem] = []
    warnings: list[FieldProblem] = []
    timings_ms: dict[str, float]


class Embeddings(BaseModel):
    """Unit-length embeddings."""

    images: list[list[float]]
    texts: list[list[float]]


class SimilarityAnswer(BaseModel):
    """Answer of /similarity: cosines, a row per image, a column per text.

    A softmax over `logit_scale` times a row gives probabilities.
    """

    model: ModelId
    similarity: list[list[float]]
    logit_scale: float
    embeddings: Embeddings | None = None
    problems: list[ImageProblem] = []
    warnings: list[FieldProblem] = []
    timings_ms: dict[str, float]


class EmbedAnswer(BaseModel):
    """Answer of /embed: unit-length embeddings of images and texts, in their order; a dot product is a cosine."""

    model: ModelId
    images: list[list[float]]
    texts: list[list[float]]
    problems: list[ImageProblem] = []
    warnings: list[FieldProblem] = []
    timings_ms: dict[str, float]


class Job(BaseModel):
    """Job of a server: `state` is queued, running, succeeded or failed, and then `problem` says why."""

    id: str
    endpoint: str
    state: str
    images: int
    images_done: int
    created_at: datetime
    expires_at: datetime | None = None
    problem: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """Tell whether it has an answer, or never will."""
        return self.state in ("succeeded", "failed")


class JobsAnswer(BaseModel):
    """Answer of /jobs: the client's jobs, oldest first."""

    jobs: list[Job]


class ServedModel(BaseModel):
    """Model being served, with the `defaults` of a request; artefacts and memory are as GET /models documents them."""

    name: str
    family: str
    version: str
    variant: str
    tasks: list[str]
    licence: str
    source: str
    weights_sha256: str
    certified: str
    card: str | None = None
    defaults: dict[str, Any]
    limits: dict[str, int]
    memory: dict[str, Any]
    artefacts: list[dict[str, Any]]


class ModelsAnswer(BaseModel):
    """Answer of /models: the models being served, bounds of a request, and the memory of all models in bytes.

    `url_images` tells whether a request may give URLs of images; older servers do not tell.
    """

    models: list[ServedModel]
    limits: dict[str, int | float]
    url_images: bool = False
    memory: dict[str, Any]


def _formatted(box_xyxy: Box, box_format: BoxFormat, width: int, height: int) -> Box:
    """Convert a box as the server would: rounded to hundredths of a pixel, or millionths of the image's sides."""
    x0, y0, x1, y1 = box_xyxy
    digits = 2
    if box_format.endswith("n"):
        x0, y0, x1, y1, digits = x0 / width, y0 / height, x1 / width, y1 / height, 6
    w, h = x1 - x0, y1 - y0
    first, second, third, fourth = {
        "xyxy": (x0, y0, x1, y1),
        "xywh": (x0, y0, w, h),
        "cxcywh": (x0 + w / 2, y0 + h / 2, w, h),
    }[box_format.removesuffix("n")]
    return round(first, digits), round(second, digits), round(third, digits), round(fourth, digits)
