"""Two lists of detections of one picture, matched and compared."""

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
# A better label by less than this is no disagreement.
SCORE_TIE = 1e-3
# With fewer detections than this there is little to compare.
FEWEST = 5
# Detections are compared on a picture of this size; it matters for rounding, and where NMS counts inclusive edges.
SIZE = (1000, 1000)

Answer = tuple[Float32, Float32]


def compare_detections(got: Answer, wanted: Answer, prompt: Prompt, rules: DetectionRules) -> dict[str, float]:
    """How the detections of (token_scores [N, T], boxes [N, 4]) agree at the bundle's threshold, or `fair_threshold`.

    matched: the share of both lists that has a partner; the partners' mean_iou, label_agreement and (mean) score_drift.
    """
    threshold = fair_threshold(label_scores(wanted[0], prompt, rules).max(1), rules.box_threshold)
    ours, theirs = (_detect(answer, prompt, rules, threshold) for answer in (got, wanted))
    pairs = match(ours, theirs)
    total = len(ours) + len(theirs)
    if not pairs:
        return {"detections.matched": 0.0 if total else 1.0}
    return {
        "detections.matched": 2 * len(pairs) / total,
        "detections.mean_iou": float(np.mean([iou for _, _, iou in pairs])),
        "detections.label_agreement": float(np.mean([_labels_agree(a, b) for a, b, _ in pairs])),
        "detections.score_drift": float(np.mean([abs(a.score - b.score) for a, b, _ in pairs])),
    }


def match(ours: list[Detection], theirs: list[Detection]) -> list[tuple[Detection, Detection, float]]:
    """Pairs with their IoU, each detection in one at most, the most alike first: by overlap, then label, then score."""
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
    """The box threshold to compare at: lower than the bundle's where fewer than FEWEST of scores [N] are above that.

    A trained model sees little in a made-up picture. The lower one is in the widest gap among the best scores, so that
    no detection hangs on noise.
    """
    best = np.sort(scores)[::-1][: 4 * FEWEST]
    if (best > box_threshold).sum() >= FEWEST or len(best) <= FEWEST:
        return box_threshold
    cut = FEWEST + int(np.argmax(best[FEWEST - 1 : -1] - best[FEWEST:]))
    return float((best[cut - 1] + best[cut]) / 2)


def _labels_agree(ours: Detection, theirs: Detection) -> bool:
    """Whether a box of ours has the label of theirs, or one that theirs says as well."""
    assert theirs.label_scores is not None
    as_well = theirs.label_scores[ours.label_id]
    return as_well is not None and theirs.score - as_well <= SCORE_TIE


def _detect(answer: Answer, prompt: Prompt, rules: DetectionRules, threshold: float) -> list[Detection]:
    changes = {"max_detections": len(answer[0]), "box_threshold": threshold}
    thresholds = Thresholds.of(rules.model_copy(update=changes))
    output = PassOutput(prompt, *answer)
    return merged_detections([output], size=SIZE, rules=rules, thresholds=thresholds, with_label_scores=True)
