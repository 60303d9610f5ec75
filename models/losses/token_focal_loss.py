"""Sigmoid focal loss on token logits (Lin et al. 2017)."""

import torch
from torch import Tensor
from torch.nn import functional

ALPHA, GAMMA = 0.25, 2.0  # as in Grounding DINO


def focal_terms(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Focal loss of each logit as a positive and as a negative; 0 where the logit is -inf."""
    absent = logits.isneginf()
    logits = logits.masked_fill(absent, 0)
    probability = logits.sigmoid()
    positive = -ALPHA * (1 - probability) ** GAMMA * functional.logsigmoid(logits)
    negative = -(1 - ALPHA) * probability**GAMMA * functional.logsigmoid(-logits)
    return positive.masked_fill(absent, 0), negative.masked_fill(absent, 0)


def token_focal_loss(logits: Tensor, positive: Tensor, counted: Tensor | None = None) -> Tensor:
    """Sum of the focal loss over queries and tokens.

    logits [..., N, T], -inf on padding, which does not count; positive [..., N, T] bool; counted [..., N] bool, queries
    that count (default: all).
    """
    as_positive, as_negative = focal_terms(logits)
    loss = as_negative + (as_positive - as_negative) * positive.to(logits.dtype)
    if counted is not None:
        loss = loss * counted[..., None].to(loss.dtype)
    return loss.sum()


def wide(values: Tensor) -> Tensor:
    """Widen to at least float32: sums over all queries and tokens overflow or stall in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
