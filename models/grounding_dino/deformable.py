"""Multi-scale deformable attention (Zhu et al. 2020), in plain PyTorch."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DeformableAttention(nn.Module):
    """Attention of each query to P sampling points per level and head, around its reference point.

    query [B, Q, C]; value [B, S, C]; mask [B, S] bool, True = image; shapes: (height, width) of each level; centre
    [B, Q, L, 2] and step, broadcastable to it: an offset of one is one step from the centre, both (x, y) in 0..1 of the
    padded levels. at_cells: the queries are the S positions of value, in this order. Returns [B, Q, C].
    """

    def __init__(self, dim: int, heads: int, levels: int, points: int, *, at_cells: bool = False) -> None:
        super().__init__()
        self.at_cells = at_cells
        self.heads, self.levels, self.points = heads, levels, points
        self.sampling_offsets = nn.Linear(dim, heads * levels * points * 2)
        self.attention_weights = nn.Linear(dim, heads * levels * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)

    def initialise(self) -> None:
        """Start the points of each head on a ray of its own, one cell apart (the paper, appendix)."""
        angles = torch.arange(self.heads) * (2 * math.pi / self.heads)
        ray = torch.stack((angles.cos(), angles.sin()), -1)  # [h, 2]
        ray = ray / ray.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1)[:, None]  # [P, 1]
        offsets = (ray[:, None, None] * steps).expand(-1, self.levels, -1, -1)  # [h, L, P, 2]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.flatten())
        for layer in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(layer.weight)
        for layer in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        mask: Tensor,
        shapes: Sequence[tuple[int, int]],
        centre: Tensor,
        step: Tensor,
    ) -> Tensor:
        value = self.value_proj(value).masked_fill(~mask[:, :, None], 0.0)
        value = value.reshape(value.shape[0], value.shape[1], self.heads, -1)  # [B, S, h, d]
        batch, count = query.shape[0], query.shape[1]
        offsets = self.sampling_offsets(query).reshape(batch, count, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).reshape(batch, count, self.heads, -1).softmax(3)  # [B, Q, h, L * P]
        weights = weights.reshape(batch, count, self.heads, self.levels, self.points)
        sample = sample_at_cells if self.at_cells else sample_around
        return self.output_proj(sample(value, shapes, offsets, weights, centre, step))


def sample_around(
    value: Tensor, shapes: Sequence[tuple[int, int]], offsets: Tensor, weights: Tensor, centre: Tensor, step: Tensor
) -> Tensor:
    """`sample_levels` at offsets [B, Q, h, L, P, 2] (x, y) in steps from the centre, as in the attention."""
    locations = centre[:, :, None, :, None] + offsets * step[:, :, None, :, None]  # [B, Q, h, L, P, 2]
    return sample_levels(value, shapes, locations, weights)


def sample_at_cells(
    value: Tensor, shapes: Sequence[tuple[int, int]], offsets: Tensor, weights: Tensor, centre: Tensor, step: Tensor
) -> Tensor:
    """`sample_around`, for queries that are the S positions; of its own, since export traces it otherwise."""
    return sample_around(value, shapes, offsets, weights, centre, step)


def sample_levels(value: Tensor, shapes: Sequence[tuple[int, int]], locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples, zero outside a level (align_corners false).

    value [B, S, h, d]; shapes: (height, width) of each level; locations [B, Q, h, L, P, 2] (x, y) in 0..1 of the padded
    level; weights [B, Q, h, L, P]. Returns [B, Q, h * d].
    """
    maps = value.permute(0, 2, 3, 1).flatten(0, 1)  # [B * h, d, S]
    grids = (2 * locations - 1).permute(0, 2, 3, 4, 1, 5).flatten(0, 1)  # [B * h, L, P, Q, 2]
    scales = weights.permute(0, 2, 3, 4, 1).flatten(0, 1)  # [B * h, L, P, Q]
    start, sums = 0, []
    for level, (height, width) in enumerate(shapes):
        end = start + height * width
        level_map = maps[:, :, start:end].reshape(maps.shape[0], maps.shape[1], height, width)
        samples = F.grid_sample(level_map, grids[:, level], padding_mode="zeros", align_corners=False)
        sums.append((samples * scales[:, level, None]).sum(2))  # [B * h, d, P, Q] -> [B * h, d, Q]
        start = end
    total = torch.stack(sums).sum(0)  # [B * h, d, Q]
    return total.reshape(value.shape[0], -1, total.shape[2]).transpose(1, 2)
