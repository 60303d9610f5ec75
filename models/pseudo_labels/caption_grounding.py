"""A teacher grounds a caption's noun phrases: confident boxes become an ODVG grounding record (Li et al. 2022, 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from models.evaluation.backends import Backend
from models.pseudo_labels.noun_phrases import NounPhrase, noun_phrases

MOST_BOXES = 300


@dataclass(frozen=True)
class Confidence:
    """Which boxes are believed: those scoring above `threshold` (GLIP: 0.5), of overlapping ones of a phrase the best.

    A phrase with more boxes than `most` is left out, since no caption counts so many. `complete`: a caption of which a
    phrase has no box is left out; kept, it teaches that what the phrase names is nowhere in the picture.
    """

    threshold: float = 0.5
    nms_iou: float = 0.5
    most: int = 10
    complete: bool = False


def grounded(
    teacher: Backend, picture: bytes, caption: str, confidence: Confidence, *, filename: str
) -> dict[str, Any] | None:
    """The ODVG line of a picture: its caption and the boxed phrases; None where no phrase has a confident box.

    Phrases are asked for as labels, equal ones once: their boxes belong to each of the places they stand at.
    """
    phrases = noun_phrases(caption)
    labels = list(dict.fromkeys(phrase.text for phrase in phrases))
    if not labels:
        return None
    answer = teacher.detect(
        picture,
        labels,
        box_threshold=confidence.threshold,
        nms_iou=confidence.nms_iou,
        max_detections=MOST_BOXES,
    )
    boxes: dict[str, list[tuple[float, tuple[float, ...]]]] = {label: [] for label in labels}
    for found in answer.detections:
        if found.box[2] > found.box[0] and found.box[3] > found.box[1]:
            boxes[labels[found.label_id]].append((found.score, found.box))
    regions = _regions(phrases, {label: some for label, some in boxes.items() if 0 < len(some) <= confidence.most})
    if not regions or (confidence.complete and len(regions) < len(labels)):
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
            places = [[other.start, other.end] for other in phrases if other.text == phrase.text]
            regions.append(
                {
                    "phrase": phrase.text,
                    "bbox": [list(box) for box in corners],
                    "tokens_positive": places,
                    "scores": list(scores),
                }
            )
    return regions
