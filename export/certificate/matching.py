"""Matches and compares two lists of detections of one image."""

import numpy as np

from server.contract.image import Float32
from server.contract.manifest import DetectionRules
from server.contract.postprocess import (
    Detection,
    PassOutput,
    Thresholds,
    iou_matrix,
    label_scores,
    merged_detections,
)
from server.contract.text import Prompt

MATCHED_IOU = 0.5
# Difference of two labels' scores that is no disagreement.
SCORE_TIE = 1e-3
# Fewest detections that make a meaningful comparison.
MIN_DETECTIONS = 5
# Image size that boxes are scaled to; it matters for rounding, and where NMS counts inclusive edges.
IMAGE_SIZE = (1000, 1000)

DetectorOutputs = tuple[Float32, Float32]  # token_scores [N, T], boxes [N, 4]


def compare_detections(
    got: DetectorOutputs, wanted: DetectorOutputs, prompt: Prompt, rules: DetectionRules
) -> dict[str, float]:
    """Agreement of two sets of detections at `fair_threshold`.

    matched: share of both lists that has a partner; mean_iou, label_agreement and mean score_drift of the partners.
    """
    threshold = fair_threshold(label_scores(wanted[0], prompt, rules).max(1), rules.box_threshold)
    ours, theirs = (detections_above(threshold, outputs, prompt, rules) for outputs in (got, wanted))
    pairs = match_detections(ours, theirs)
    total = len(ours) + len(theirs)
    if not pairs:
        return {"detections.matched": 0.0 if total else 1.0}
    return {
        "detections.matched": 2 * len(pairs) / total,
        "detections.mean_iou": float(np.mean([iou for _, _, iou in pairs])),
        "detections.label_agreement": float(np.mean([_labels_agree(a, b) for a, b, _ in pairs])),
        "detections.score_drift": float(np.mean([abs(a.score - b.score) for a, b, _ in pairs])),
    }


def match_detections(ours: list[Detection], theirs: list[Detection]) -> list[tuple[Detection, Detection, float]]:
    """Greedy one-to-one pairs with their IoU, the most alike first: by overlap, then label, then score."""
    if not ours or not theirs:
        return []
    overlap = iou_matrix(np.asarray([d.box for d in ours], np.float32), np.asarray([d.box for d in theirs], np.float32))
    label = np.asarray([d.label_id for d in ours])[:, None] == np.asarray([d.label_id for d in theirs])[None]
    score = np.abs(np.asarray([d.score for d in ours])[:, None] - np.asarray([d.score for d in theirs])[None])
    likeness = np.where(overlap >= MATCHED_IOU, overlap + 0.1 * label - 0.1 * score, -1.0)
    pairs, free_ours, free_theirs = [], np.ones(len(ours), np.bool_), np.ones(len(theirs), np.bool_)
    for flat in np.argsort(-likeness, axis=None, kind="stable"):
        row, column = divmod(int(flat), len(theirs))
        if likeness[row, column] < 0:
            break
        if free_ours[row] and free_theirs[column]:
            free_ours[row] = free_theirs[column] = False
            pairs.append((ours[row], theirs[column], float(overlap[row, column])))
    return pairs


def fair_threshold(scores: Float32, box_threshold: float) -> float:
    """Box threshold to compare at: the bundle's, or a lower one where fewer than MIN_DETECTIONS of scores [N] pass.

    A trained model finds little in a synthetic image. The lower threshold lies in the widest gap between the best
    scores, so that no detection depends on noise.
    """
    best = np.sort(scores)[::-1][: 4 * MIN_DETECTIONS]
    if (best > box_threshold).sum() >= MIN_DETECTIONS or len(best) <= MIN_DETECTIONS:
        return box_threshold
    cut = MIN_DETECTIONS + int(np.argmax(best[MIN_DETECTIONS - 1 : -1] - best[MIN_DETECTIONS:]))
    return float((best[cut - 1] + best[cut]) / 2)


def _labels_agree(ours: Detection, theirs: Detection) -> bool:
    """True if our label is theirs, or one that scores as well there."""
    assert theirs.label_scores is not None
    score = theirs.label_scores[ours.label_id]
    return score is not None and theirs.score - score <= SCORE_TIE


def detections_above(
    threshold: float, outputs: DetectorOutputs, prompt: Prompt, rules: DetectionRules
) -> list[Detection]:
    """All detections of these outputs above a box threshold, on an image of `IMAGE_SIZE`."""
    changes = {"max_detections": len(outputs[0]), "box_threshold": threshold}
    thresholds = Thresholds.of(rules.model_copy(update=changes))
    output = PassOutput(prompt, *outputs)
    return merged_detections([output], size=IMAGE_SIZE, rules=rules, thresholds=thresholds, with_label_scores=True)
