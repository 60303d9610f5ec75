"""Requests of the vision endpoints; unknown fields are refused, so that no misspelt threshold is ignored."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from server.errors import Fault
from server.request_fields import (
    EXAMPLE_IMAGE,
    AtLeastOne,
    Caption,
    ImageBytes,
    Items,
    Names,
    Numbers,
    Ratio,
    Sentences,
    Templates,
    Url,
    Urls,
)

BoxFormat = Literal["xyxy", "xywh", "cxcywh", "xyxyn", "xywhn", "cxcywhn"]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    # First, since the validators of images ask for it.
    on_error: Literal["raise", "skip"] = Field(
        "raise",
        description="`skip`: an image that cannot be read or run gets an empty result, and an entry in `problems`; the"
        " others are answered. `raise`: the request is refused.",
        examples=["skip"],
    )
    image: ImageBytes | None = Field(None, description="One image; for several use `images`.", examples=[EXAMPLE_IMAGE])
    images: Items[ImageBytes] = Field((), description="Several images; results are in their order.")
    image_url: Url | None = Field(
        None, description="The https URL of one image, if the server downloads images (setting `url_images`)."
    )
    image_urls: Urls = Field((), description="URLs of several images; results are in their order.")
    model: str | None = Field(
        None,
        max_length=200,
        description="Name or family of the model, as in `GET /models`; by default the first that supports the task.",
    )
    _least_images: ClassVar[int] = 1

    @model_validator(mode="after")
    def _has_one_source(self) -> "_Request":
        given = (self.image is not None, bool(self.images), self.image_url is not None, bool(self.image_urls))
        if not self._least_images <= sum(given) <= 1:
            raise PydanticCustomError(
                "images", "give one of 'image', 'images', 'image_url' and 'image_urls', with at least one image"
            )
        return self

    @property
    def pictures(self) -> tuple[bytes | Fault, ...]:
        """The encoded images in order, in place of one that could not be got its fault."""
        return self.images if self.image is None else (self.image,)

    @property
    def picture_bytes(self) -> int:
        """Bytes of the encoded images."""
        return sum(len(picture) for picture in self.pictures if isinstance(picture, bytes))

    @property
    def urls(self) -> tuple[str | Fault, ...]:
        """The URLs of the images, if they are not in the request."""
        return self.image_urls if self.image_url is None else (self.image_url,)


class DetectRequest(_Request):
    """Images, and the objects to detect: a caption (`prompt`) or a list (`labels`)."""

    prompt: Caption | None = Field(
        None,
        description="A caption: phrases, each ended by a full stop.",
        examples=["a dog. a bicycle."],
    )
    labels: Names = Field(
        (),
        description="Objects to detect. A label is returned exactly as written, `label_id` is its index in this list.",
        examples=[["a dog", "a bicycle"]],
    )
    box_threshold: Ratio | None = Field(
        None, description="Minimum score of a detection; the model's own by default.", examples=[0.3]
    )
    label_thresholds: Numbers = Field(
        (),
        description="Minimum score of each label, in the order of `labels` or of the caption's phrases; null for"
        " `box_threshold`. A box has its best label: one below its threshold is no detection of the next label.",
        examples=[[0.4, None]],
    )
    text_threshold: Ratio | None = Field(
        None, description="Minimum score of a word reported as `matched`; the model's own by default."
    )
    nms_iou: Ratio | None = Field(
        None, description="IoU above which the weaker of two boxes of one label is dropped (NMS); 1 keeps all."
    )
    nms_across_labels: bool = Field(
        False,
        description="Let a box suppress weaker ones of other labels too (class-agnostic NMS); with `nms_iou` 0.5 where"
        " neither the request nor the model has one.",
    )
    max_detections: int | None = Field(None, ge=1, le=10_000, description="Maximum number of detections per image.")
    shorter: int | None = Field(
        None,
        ge=1,
        description="Shorter side in pixels that images are resized to, the longer one in proportion; smaller is faster"
        " and finds fewer small things. From a quarter of the model's own to that, as `limits` in `GET /models` says.",
    )
    longer: int | None = Field(
        None,
        ge=1,
        description="Most pixels of the longer side: larger images are resized to it, the shorter side in proportion."
        " Bounds as of `shorter`; by default the model's own, in proportion to `shorter`.",
    )
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

    labels: Annotated[Names, AtLeastOne] = Field(
        description="The candidate labels.", json_schema_extra={"minItems": 1}, examples=[["dog", "cat"]]
    )
    templates: Templates = Field(
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

    texts: Annotated[Sentences, AtLeastOne] = Field(
        description="The texts.", json_schema_extra={"minItems": 1}, examples=[["a photo of a dog", "a photo of a cat"]]
    )
    embeddings: bool = Field(False, description="Return the unit-length embeddings too.")


class EmbedRequest(_Request):
    """Images, texts, or both, to embed in one space."""

    texts: Sentences = Field((), description="The texts.", examples=[["a photo of a dog", "a photo of a cat"]])
    _least_images: ClassVar[int] = 0

    @model_validator(mode="after")
    def _has_something(self) -> "EmbedRequest":
        if not (self.pictures or self.urls or self.texts):
            raise PydanticCustomError("images", "give images, 'texts' or both")
        return self
