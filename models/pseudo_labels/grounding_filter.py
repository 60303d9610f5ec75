"""Criteria for the boxes that become pseudo-labels."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GroundingFilter:
    """Criteria for a teacher's boxes: a score above `threshold` (GLIP: 0.5) after non-maximum suppression at `nms_iou`.

    A phrase with more than `max_boxes` boxes is dropped. `complete` drops a caption of which a phrase has no box; kept,
    it is a negative example of that phrase.
    """

    threshold: float = 0.5
    nms_iou: float = 0.5
    max_boxes: int = 10
    complete: bool = False
