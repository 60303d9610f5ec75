"""Sampling of the feature levels for deformable attention."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_levels(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, zero outside a level (align_corners false).

    value [B, S, h, d]; shapes: (height, width) of each level; locations [B, Q, h, L, P, 2] (x, y) in 0..1 of the padded
    level; weights [B, Q, h, L, P]. Returns [B, Q, h * d].
    """
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # [B * h, d, S]
    grids = (2 * locations - 1).permute(0, 2, 3, 4, 1, 5).flatten(0, 1)  # [B * h, L, P, Q, 2]
    scales = weights.permute(0, 2, 3, 4, 1).flatten(0, 1)  # [B * h, L, P, Q]
    start, parts = 0, []
    for level, (height, width) in enumerate(shapes):
        end = start + height * width
        level_map = maps[:, :, start:end].reshape(maps.shape[0], maps.shape[1], height, width)
        samples = F.grid_sample(level_map, grids[:, level], padding_mode="zeros", align_corners=False)
        parts.append((samples * scales[:, level, None]).sum(2))  # [B * h, d, P, Q] -> [B * h, d, Q]
        start = end
    total = torch.stack(parts).sum(0)  # [B * h, d, Q]
    return total.reshape(value.shape[0], -1, total.shape[2]).transpose(1, 2)
