"""What scores are worth: how those of right and wrong answers lie, and how often a score is right."""

import numpy as np
import numpy.typing as npt

from models.evaluation.metrics import Float64, Plot

BINS = 20
RELIABILITY_BINS = 10
Bool = npt.NDArray[np.bool_]


def histogram(name: str, title: str, scores: Float64, right: Bool) -> Plot:
    """How many right and wrong answers have a score."""
    edges = np.linspace(0, 1, BINS + 1)
    counts = {
        text: np.histogram(scores[chosen], edges)[0].astype(np.float64)
        for text, chosen in (("right", right), ("wrong", ~right))
    }
    return Plot(name, title, "score", "answers", {text: (edges[:-1], y) for text, y in counts.items()}, bars=True)


def reliability(name: str, title: str, scores: Float64, right: Bool) -> Plot:
    """The share of right answers by score, in tenths."""
    middle, share, _ = _by_score(scores, right)
    return Plot(name, title, "mean score", "share that is right", {"answers": (middle, share)}, diagonal=True)


def calibration_error(scores: Float64, right: Bool) -> float:
    """The expected calibration error: how far score and share of right answers lie apart, in tenths by score, weighted.

    Guo et al. 2017, section 2.
    """
    middle, share, counts = _by_score(scores, right)
    return float((counts * np.abs(middle - share)).sum() / counts.sum()) if counts.sum() else float("nan")


def best_threshold(scores: Float64, right: Bool, objects: int) -> tuple[float, float]:
    """The score from which on detections have the best F1, and that; NaN where nothing was found or is there."""
    if not len(scores) or not objects:
        return float("nan"), float("nan")
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(right[order]) / (np.arange(1, len(order) + 1) + objects)
    best = int(f1.argmax())
    return float(scores[order[best]]), float(f1[best])


def _by_score(scores: Float64, right: Bool) -> tuple[Float64, Float64, Float64]:
    """Mean score, share right and count of the tenths that have an answer."""
    place = np.clip((scores * RELIABILITY_BINS).astype(np.int64), 0, RELIABILITY_BINS - 1)
    counts = np.bincount(place, minlength=RELIABILITY_BINS).astype(np.float64)
    some = counts > 0
    sums = np.bincount(place, scores, RELIABILITY_BINS), np.bincount(place, right, RELIABILITY_BINS)
    return sums[0][some] / counts[some], sums[1][some] / counts[some], counts[some]
