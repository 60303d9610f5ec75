"""Nearest-neighbour indices, written out: runtimes round the scale of a resize differently."""

import torch
from torch import Tensor


def nearest_index(source: int, target: int, device: torch.device) -> Tensor:
    """[target] int64: which of `source` cells each of `target` cells reads, in float32 as F.interpolate computes it."""
    position = torch.arange(target, device=device).float()
    return (position * (source / target)).long()
