"""Contrastive loss between images and texts."""

import torch
from torch import Tensor
from torch.nn import functional


def info_nce(logits: Tensor, targets: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """Symmetric InfoNCE of images against all texts of a set (Radford et al. 2021, figure 3, for unequal sides).

    logits [B, N], every image with every text; targets [B] int64, the text of each image. Several images may have the
    same text and a text may have no image. With `targets = arange(B)` and B = N this is CLIP's loss: the mean of the
    cross-entropies along both axes. Along the second, a text with several images has a uniform target over them, and a
    text without any takes no part. `smoothing` is label smoothing along the first.
    """
    per_image = functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    texts, index = targets.unique(return_inverse=True)  # [M], [B]
    matched = functional.one_hot(index, len(texts)).T.to(logits.dtype)  # [M, B]
    log_probability = logits.T[texts].log_softmax(dim=1)  # [M, B]
    per_text = -(log_probability * matched).sum(1) / matched.sum(1)
    return (per_image + per_text.mean()) / 2


def top1(logits: Tensor, targets: Tensor) -> float:
    """Top-1 accuracy of rows [B, N] with targets [B]."""
    return float((logits.argmax(1) == targets).to(torch.float32).mean())
