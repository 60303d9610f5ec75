import math

import pytest
import torch
from torch import Tensor

from models.grounding_dino.sampling import sample_levels

SHAPES = [(3, 4), (2, 1)]


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
    positions = sum(h * w for h, w in SHAPES)
    value = torch.randn(batch, positions, heads, width, generator=generator)
    locations = torch.rand(batch, queries, heads, 2, points, 2, generator=generator) * 1.6 - 0.3  # some are outside
    weights = torch.rand(batch, queries, heads, 2, points, generator=generator)
    output = sample_levels(value, SHAPES, locations, weights).reshape(batch, queries, heads, width)
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
    output = sample_levels(torch.ones(1, 14, 1, 3), SHAPES, locations, torch.ones(1, 1, 1, 2, 1))
    assert output.abs().max() == 0
