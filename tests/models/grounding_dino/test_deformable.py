"""Deformable attention, and its sampling against a cell-by-cell computation."""

import math

import pytest
import torch
from torch import Tensor

from models.grounding_dino.deformable import DeformableAttention, sample_levels

SHAPES = [(4, 4), (2, 2)]
LEVEL_SHAPES = [(3, 4), (2, 1)]


def fresh_attention() -> DeformableAttention:
    torch.manual_seed(0)
    attention = DeformableAttention(16, 4, 2, 2)
    attention.initialise()
    return attention


def test_padding_is_never_read() -> None:
    attention = fresh_attention()
    query, value = torch.randn(1, 3, 16), torch.randn(1, 20, 16)
    mask = torch.rand(1, 20) > 0.4
    centre, step = torch.rand(1, 3, 2, 2), torch.full((1, 1, 2, 2), 0.25)
    changed = torch.where(mask[:, :, None], value, 100.0)
    outputs = [attention(query, v, mask, SHAPES, centre, step) for v in (value, changed)]
    torch.testing.assert_close(*outputs, rtol=0, atol=0)


def test_untrained_heads_look_in_different_directions_and_further_with_each_point() -> None:
    offsets = fresh_attention().sampling_offsets.bias.reshape(4, 2, 2, 2)  # [h, L, P, 2]
    torch.testing.assert_close(offsets[:, 0, 0], torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]]))
    torch.testing.assert_close(offsets[:, :, 1], 2 * offsets[:, :, 0])


def test_an_offset_is_counted_in_steps() -> None:
    attention = fresh_attention()
    with torch.no_grad():
        attention.value_proj.weight.copy_(torch.eye(16))
        attention.output_proj.weight.copy_(torch.eye(16))
        attention.sampling_offsets.bias.copy_(torch.tensor([2.0, 1.0]).repeat(16))
    value = torch.zeros(1, 20, 16)
    value[0, 4 * 1 + 2] = 6.0  # row 1, column 2 of the first level
    centre, step = torch.full((1, 1, 2, 2), 1 / 8), torch.full((1, 1, 1, 2), 1 / 4)  # centre of the first cell
    output = attention(torch.zeros(1, 1, 16), value, torch.ones(1, 20, dtype=torch.bool), SHAPES, centre, step)
    torch.testing.assert_close(output, torch.full((1, 1, 16), 3.0))  # two of four equal weights


def bilinear(level: Tensor, x: float, y: float) -> Tensor:
    """The value [d] of a map [height, width, d] at a point in 0..1, cell by cell."""
    height, width, _ = level.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros(level.shape[2])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * level[i, j]
    return total


def test_samples_are_bilinear_and_weighted_over_levels_and_points() -> None:
    generator = torch.Generator().manual_seed(0)
    batch, queries, heads, points, width = 2, 5, 3, 2, 4
    positions = sum(h * w for h, w in LEVEL_SHAPES)
    value = torch.randn(batch, positions, heads, width, generator=generator)
    locations = torch.rand(batch, queries, heads, 2, points, 2, generator=generator) * 1.6 - 0.3  # some are outside
    weights = torch.rand(batch, queries, heads, 2, points, generator=generator)
    output = sample_levels(value, LEVEL_SHAPES, locations, weights).reshape(batch, queries, heads, width)
    for b, q, h in torch.cartesian_prod(torch.arange(batch), torch.arange(queries), torch.arange(heads)).tolist():
        levels = [value[b, :12, h].reshape(3, 4, width), value[b, 12:, h].reshape(2, 1, width)]
        expected = sum(
            weights[b, q, h, level, p] * bilinear(levels[level], *locations[b, q, h, level, p].tolist())
            for level in range(2)
            for p in range(points)
        )
        torch.testing.assert_close(output[b, q, h], expected)


@pytest.mark.parametrize("location", [(-0.5, 0.5), (0.5, 1.5), (3.0, 3.0)])
def test_outside_a_level_there_is_nothing(location: tuple[float, float]) -> None:
    locations = torch.tensor(location).expand(1, 1, 1, 2, 1, 2)
    output = sample_levels(torch.ones(1, 14, 1, 3), LEVEL_SHAPES, locations, torch.ones(1, 1, 1, 2, 1))
    assert output.abs().max() == 0
