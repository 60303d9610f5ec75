import pytest
import torch

from models.layers.resnet import ModifiedResNet


def test_stage_maps_have_strides_4_8_16_32() -> None:
    network = ModifiedResNet((1, 2, 1, 1), 4)
    maps = network.forward_features(torch.randn(2, 3, 64, 96))
    assert [tuple(x.shape) for x in maps] == [(2, 16, 16, 24), (2, 32, 8, 12), (2, 64, 4, 6), (2, 128, 2, 3)]
    assert network.channels == (16, 32, 64, 128)


@pytest.mark.parametrize(("height", "width"), [(33, 47), (100, 61)])
def test_odd_sizes_are_rounded_down_at_each_stride(height: int, width: int) -> None:
    maps = ModifiedResNet((1, 1, 1, 1), 4).eval().forward_features(torch.randn(1, 3, height, width))
    height, width = (height + 1) // 2 // 2, (width + 1) // 2 // 2  # the stem's first convolution rounds up
    for x in maps:
        assert x.shape[-2:] == (height, width)
        height, width = height // 2, width // 2


@pytest.mark.parametrize(("blocks", "width"), [((1, 1, 1), 4), ((1, 1, 0, 1), 4), ((1, 1, 1, 1), 5)])
def test_sizes_that_cannot_be_built_are_refused(blocks: tuple[int, ...], width: int) -> None:
    with pytest.raises(ValueError, match="needed"):
        ModifiedResNet(blocks, width)
