import pytest
import torch
from torch.nn import functional

from models.grounding_dino.feature_levels import level_geometry, level_mask


@pytest.mark.parametrize(("height", "width"), [(480, 640), (800, 1066), (799, 1332), (33, 47), (161, 1066)])
@pytest.mark.parametrize("stride", [8, 16, 32, 64])
def test_level_mask_equals_nearest_interpolation(height: int, width: int, stride: int) -> None:
    mask = torch.rand(2, height, width, generator=torch.Generator().manual_seed(height)) > 0.5
    size = -(-height // stride), -(-width // stride)
    expected = functional.interpolate(mask[:, None].float(), size)[:, 0].bool()
    assert torch.equal(level_mask(mask, *size), expected)


def test_geometry_is_that_of_the_unpadded_image() -> None:
    mask = torch.zeros(1, 4, 8, dtype=torch.bool)
    mask[0, :2, :4] = True
    levels = level_geometry([mask, mask[:, ::2, ::2]])
    assert levels.shapes == [(4, 8), (2, 4)]
    assert levels.valid_ratios.tolist() == [[[0.5, 0.5], [0.5, 0.5]]]  # (x, y) of each level
    assert levels.cells.tolist() == [[[[1 / 8, 1 / 4], [1 / 4, 1 / 2]]]]
    assert levels.centres[0, 0].tolist() == [1 / 8, 1 / 4]
    assert levels.centres[0, 8 + 3].tolist() == [7 / 8, 3 / 4]  # second row, last valid column
    assert levels.centres[0, 4].tolist() == [9 / 8, 1 / 4]  # beyond the image
    assert levels.centres[0, 32].tolist() == [1 / 4, 1 / 2]  # the second level starts here
    assert levels.mask.sum(1).tolist() == [8 + 2]
