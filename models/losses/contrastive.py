"""Contrastive loss between pictures and texts."""

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Symmetric InfoNCE of pictures against all texts of a set (Radford et al. 2021, figure 3, for unequal sides).

    logits [B, N], every picture with every text; targets [B] int64, the text of each picture. Several pictures may have
    the same text and a text may have no picture. With `targets = arange(B)` and B = N this is CLIP's loss: the mean of
    the cross-entropies along both axes. Each text with several pictures shares its target evenly among them; texts
    without one take no part in the second axis. `smoothing` is label smoothing along the first.
    """
    per_picture = functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    texts, place = targets.unique(return_inverse=True)  # [M], [B]
    belongs = functional.one_hot(place, len(texts)).T.to(logits.dtype)  # [M, B]
    log_share = logits.T[texts].log_softmax(dim=1)  # [M, B]
    per_text = -(log_share * belongs).sum(1) / belongs.sum(1)
    return (per_picture + per_text.mean()) / 2


def top1(logits: Tensor, targets: Tensor) -> float:
    """Share of rows [B, N] whose largest value stands at its target [B]."""
    return float((logits.argmax(1) == targets).to(torch.float32).mean())
