"""Options of a request, checked and completed by the model that answers: thresholds, sizes, templates."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from server.contract.postprocess import Thresholds
from server.contract.text import Prompt, TokenizedPhrase
from server.errors import FieldFault, InvalidRequest
from server.inference.loaded_model import LoadedModel
from server.requests import DetectRequest

Float32 = npt.NDArray[np.float32]
# About ten megabytes of JSON.
MAX_LABEL_SCORES = 1_000_000
# Characters of a template with its label, each of which may have 1000: no template repeats a long label.
MAX_TEXT = 2000
# IoU of suppression across labels where neither the request nor the model has one.
ACROSS_LABELS_IOU = 0.5


def fill_templates(templates: Sequence[str], labels: Sequence[str]) -> list[str]:
    """Every label in every template; InvalidRequest for a text of more than MAX_TEXT characters."""
    longest = max(map(len, labels), default=0)
    if max(len(template) + template.count("{}") * (longest - 2) for template in templates) > MAX_TEXT:
        reason = f"with the longest label in place of each {{}}, a text has more than {MAX_TEXT} characters"
        raise InvalidRequest([FieldFault("templates", reason)])
    return [template.replace("{}", label) for label in labels for template in templates]


def thresholds_of(request: DetectRequest, model: LoadedModel, phrases: Sequence[TokenizedPhrase]) -> Thresholds:
    """The request's thresholds, where it sets none the model's own; labels that it cannot know are excluded."""
    if (given := len(request.label_thresholds)) not in (0, len(phrases)):
        reason = f"{given} thresholds for {len(phrases)} labels: give one for each, null for the default"
        raise InvalidRequest([FieldFault("label_thresholds", reason)])
    names = ("box_threshold", "text_threshold", "nms_iou", "max_detections")
    values = {name: value for name in names if (value := getattr(request, name)) is not None}
    thresholds = replace(
        Thresholds.of(model.detection),
        **values,
        label_thresholds=request.label_thresholds,
        excluded=frozenset(index for index, phrase in enumerate(phrases) if phrase.reading.nothing),
        nms_across_labels=request.nms_across_labels,
    )
    if thresholds.nms_across_labels and thresholds.nms_iou is None:
        return replace(thresholds, nms_iou=ACROSS_LABELS_IOU)
    return thresholds


def check_size(request: DetectRequest, model: LoadedModel) -> None:
    """InvalidRequest for a size that the model's graphs were not measured at."""
    rules = model.bundle.manifest.preprocessing
    faults = []
    for name, given, bounds in (
        ("shorter", request.shorter, rules.shorter_range),
        ("longer", request.longer, rules.longer_range),
    ):
        if given is None or (bounds and bounds[0] <= given <= bounds[1]):
            continue
        accepted = "none: its inputs are squares" if not bounds else "{} to {}".format(*bounds)
        if bounds and bounds[0] == bounds[1]:
            accepted = f"{bounds[1]} only"
        faults.append(FieldFault(name, f"{model.name} takes {accepted}, got {given}"))
    if faults:
        raise InvalidRequest(faults)


def check_label_scores(request: DetectRequest, prompts: Sequence[Prompt], thresholds: Thresholds) -> None:
    """InvalidRequest where the scores of all labels for all detections could exceed MAX_LABEL_SCORES."""
    images, detections = len(request.pictures), thresholds.max_detections
    labels = sum(len(prompt.labels) for prompt in prompts)
    if request.label_scores and images * detections * labels > MAX_LABEL_SCORES:
        reason = (
            f"{images} image(s) with {detections} detections (max_detections) and {labels} labels could have"
            f" {images * detections * labels} scores, at most {MAX_LABEL_SCORES} are answered"
        )
        raise InvalidRequest([FieldFault("label_scores", reason)])


def ensembles(embeds: Float32, count: int) -> Float32:
    """Unit-length means [labels, D] of each label's `count` template embeddings [labels * count, D]."""
    means = embeds.reshape(-1, count, embeds.shape[1]).mean(1)  # [labels, D]
    return np.asarray(means / np.linalg.norm(means, axis=1, keepdims=True), np.float32)
