"""After training: make scores mean what a reader takes them for. Neither step changes any ranking."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from models.training.average_precision import Found, Truth, matched

SCALES = np.geomspace(1.0, 100.0, 200)


def best_logit_scale(cosines: Tensor, targets: Tensor) -> float:
    """The factor on cosines [B, N] whose softmax gives the targets [B] the highest likelihood."""
    losses = [float(functional.cross_entropy(cosines * scale, targets)) for scale in SCALES]
    return float(SCALES[int(np.argmin(losses))])


def best_threshold(truths: Sequence[Truth], found: Sequence[Found], *, iou: float = 0.5) -> float:
    """The score above which detections have the best F1; ValueError where nothing was found."""
    if not found:
        raise ValueError(f"no detection to choose a threshold by, for {len(truths)} objects")
    wanted: dict[str, list[Truth]] = defaultdict(list)
    answered: dict[str, list[Found]] = defaultdict(list)
    for truth in truths:
        wanted[truth.label].append(truth)
    for detection in found:
        answered[detection.label].append(detection)
    rows = [
        (detection.score, hit)
        for label, group in answered.items()
        for detection, hit in matched(wanted[label], group, iou=iou)
    ]
    rows.sort(key=lambda row: -row[0])
    hits = np.cumsum([hit for _, hit in rows])
    f1 = 2 * hits / (np.arange(1, len(rows) + 1) + len(truths))
    last = int(f1.argmax())
    below = rows[last + 1][0] if last + 1 < len(rows) else 0.0
    return (rows[last][0] + below) / 2


def quiet_threshold(highest: Sequence[float], share: float) -> float:
    """The lowest score above which a `share` of pictures, of which `highest` are the best scores, has nothing."""
    return float(np.quantile(np.asarray(highest), share, method="higher"))


def logit(score: float) -> float:
    """The logarithm of the odds."""
    return float(torch.logit(torch.tensor(score, dtype=torch.float64)))
