"""Pseudo-labels from a teacher's grounding of a caption's noun phrases (GLIP: Li et al. 2022, section 3.3)."""

from collections.abc import Sequence
from typing import Any

from models.evaluation.backends import Backend
from models.pseudo_labels.grounding_filter import GroundingFilter
from models.pseudo_labels.noun_phrases import NounPhrase, noun_phrases

MAX_DETECTIONS = 300


def ground_caption(
    teacher: Backend, image: bytes, caption: str, criteria: GroundingFilter, *, filename: str
) -> dict[str, Any] | None:
    """ODVG record of an image with its caption and grounded phrases; None where no phrase has a box.

    Phrases are detected as labels. A repeated phrase is detected once, and its region has the spans of all occurrences.
    """
    phrases = noun_phrases(caption)
    labels = list(dict.fromkeys(phrase.text for phrase in phrases))
    if not labels:
        return None
    answer = teacher.detect(
        image,
        labels,
        box_threshold=criteria.threshold,
        nms_iou=criteria.nms_iou,
        max_detections=MAX_DETECTIONS,
    )
    boxes: dict[str, list[tuple[float, tuple[float, ...]]]] = {label: [] for label in labels}
    for found in answer.detections:
        if found.box[2] > found.box[0] and found.box[3] > found.box[1]:
            boxes[labels[found.label_id]].append((found.score, found.box))
    regions = _regions(phrases, {label: some for label, some in boxes.items() if 0 < len(some) <= criteria.max_boxes})
    if not regions or (criteria.complete and len(regions) < len(labels)):
        return None
    return {
        "filename": filename,
        "height": answer.height,
        "width": answer.width,
        "grounding": {"caption": caption, "regions": regions},
    }


def _regions(
    phrases: Sequence[NounPhrase], boxes: dict[str, list[tuple[float, tuple[float, ...]]]]
) -> list[dict[str, Any]]:
    regions = []
    for phrase in phrases:
        if phrase.text in boxes:
            scores, corners = zip(*boxes.pop(phrase.text), strict=True)
            spans = [[other.start, other.end] for other in phrases if other.text == phrase.text]
            regions.append(
                {
                    "phrase": phrase.text,
                    "bbox": [list(box) for box in corners],
                    "tokens_positive": spans,
                    "scores": list(scores),
                }
            )
    return regions
