"""What a request asks of a model: its images, and to detect a prompt for each pass, thresholds, how much is told."""

from collections.abc import Sequence
from dataclasses import fields

from server.contract.manifest import DetectionRules
from server.contract.postprocess import Thresholds
from server.contract.text import Prompt, PromptTokenizer
from server.errors import FieldFault, InvalidRequest
from server.schemas import DetectRequest
from server.settings import Settings

# As JSON about ten megabytes.
MAX_LABEL_SCORES = 1_000_000


def prompts_of(request: DetectRequest, tokenizer: PromptTokenizer, max_passes: int) -> tuple[Prompt, ...]:
    """The prompt of each pass; PromptTooLong where they are more than `max_passes`."""
    if request.prompt is None:
        return tokenizer.label_passes(request.labels, max_passes=max_passes)
    return tokenizer.caption_passes(request.prompt, max_passes=max_passes)


def thresholds_of(request: DetectRequest, rules: DetectionRules) -> Thresholds:
    """The request's thresholds, the model's own where it does not say."""
    defaults = Thresholds.of(rules)
    names = [field.name for field in fields(Thresholds)]
    asked = {name: getattr(request, name) for name in names}
    return Thresholds(**{name: getattr(defaults, name) if asked[name] is None else asked[name] for name in names})


def refuse_too_many_label_scores(request: DetectRequest, prompts: Sequence[Prompt], thresholds: Thresholds) -> None:
    """InvalidRequest where the scores of all labels for all detections could be more than an answer may have."""
    images, detections = len(request.pictures), thresholds.max_detections
    labels = sum(len(prompt.labels) for prompt in prompts)
    if request.label_scores and images * detections * labels > MAX_LABEL_SCORES:
        reason = (
            f"{images} image(s) with {detections} detections (max_detections) and {labels} labels could have"
            f" {images * detections * labels} scores, at most {MAX_LABEL_SCORES} are answered"
        )
        raise InvalidRequest([FieldFault("label_scores", reason)])


def refuse_too_many_images(count: int, settings: Settings) -> None:
    """InvalidRequest for more images than a request may have."""
    if count > settings.max_images:
        raise InvalidRequest([FieldFault("images", f"{count} images, at most {settings.max_images} are accepted")])


def image_names(count: int) -> list[str]:
    """What a request's images are called in errors."""
    return ["the image"] if count == 1 else [f"image {number} of {count}" for number in range(1, count + 1)]
