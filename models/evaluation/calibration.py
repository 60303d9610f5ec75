"""Calibration of scores: histograms, reliability diagram, expected calibration error, the threshold of the best F1."""

import numpy as np
import numpy.typing as npt

from models.evaluation.metrics import Float64, Plot

HISTOGRAM_BINS = 20
RELIABILITY_BINS = 10
Bool = npt.NDArray[np.bool_]


def score_histogram(name: str, title: str, scores: Float64, correct: Bool) -> Plot:
    """Histogram of the scores of correct and of wrong answers."""
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    counts = {
        text: np.histogram(scores[rows], edges)[0].astype(np.float64)
        for text, rows in (("correct", correct), ("wrong", ~correct))
    }
    return Plot(name, title, "score", "answers", {text: (edges[:-1], y) for text, y in counts.items()}, bars=True)


def reliability_diagram(name: str, title: str, scores: Float64, correct: Bool) -> Plot:
    """Accuracy by score, in bins of a tenth."""
    mean_scores, accuracy, _ = _reliability_bins(scores, correct)
    return Plot(name, title, "mean score", "share that is correct", {"answers": (mean_scores, accuracy)}, diagonal=True)


def calibration_error(scores: Float64, correct: Bool) -> float:
    """Expected calibration error over ten bins (Guo et al. 2017, section 2); NaN without answers."""
    mean_scores, accuracy, counts = _reliability_bins(scores, correct)
    return float((counts * np.abs(mean_scores - accuracy)).sum() / counts.sum()) if counts.sum() else float("nan")


def best_f1(scores: Float64, correct: Bool, num_objects: int) -> tuple[float, float]:
    """The lowest score of the detections with the best F1, and that F1; NaN without detections or objects."""
    if not len(scores) or not num_objects:
        return float("nan"), float("nan")
    order = np.argsort(-scores, kind="stable")
    f1 = 2 * np.cumsum(correct[order]) / (np.arange(1, len(order) + 1) + num_objects)
    best = int(f1.argmax())
    return float(scores[order[best]]), float(f1[best])


def _reliability_bins(scores: Float64, correct: Bool) -> tuple[Float64, Float64, Float64]:
    """Mean score, accuracy and count of each bin that is not empty."""
    index = np.clip((scores * RELIABILITY_BINS).astype(np.int64), 0, RELIABILITY_BINS - 1)
    counts = np.bincount(index, minlength=RELIABILITY_BINS).astype(np.float64)
    filled = counts > 0
    sums = np.bincount(index, scores, RELIABILITY_BINS), np.bincount(index, correct, RELIABILITY_BINS)
    return sums[0][filled] / counts[filled], sums[1][filled] / counts[filled], counts[filled]
