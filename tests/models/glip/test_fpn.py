import pytest
import torch
import torch.nn.functional as F

from models.glip.fpn import FeaturePyramid, nearest
from tests.models.small_glip import SWIN


@pytest.mark.parametrize(("source", "target"), [((4, 6), (8, 12)), ((3, 5), (7, 11)), ((1, 1), (2, 3))])
def test_nearest_equals_interpolation(source: tuple[int, int], target: tuple[int, int]) -> None:
    x = torch.rand(2, 3, *source)
    assert torch.equal(nearest(x, *target), F.interpolate(x, target, mode="nearest"))


def test_levels_gather_from_above_and_two_more_follow() -> None:
    torch.manual_seed(0)
    pyramid = FeaturePyramid(SWIN)
    maps = [torch.randn(1, channels, size, size) for channels, size in ((16, 8), (32, 4), (64, 2))]
    levels = pyramid(maps)
    assert [x.shape[2] for x in levels] == [8, 4, 2, 1, 1]
    changed = pyramid([*maps[:2], maps[2] + 1])
    assert not any(torch.allclose(a, b) for a, b in zip(levels, changed, strict=True))
    finest = pyramid([maps[0] + 1, *maps[1:]])
    assert [torch.equal(a, b) for a, b in zip(levels, finest, strict=True)] == [False, True, True, True, True]
    torch.testing.assert_close(levels[3], pyramid.extra[0](levels[2]))
    torch.testing.assert_close(levels[4], pyramid.extra[1](F.relu(levels[3])))
