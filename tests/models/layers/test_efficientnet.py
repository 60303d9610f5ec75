"""EfficientNet-Lite against a plain restatement of the published network, from the names that its weights have."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from models.layers.efficientnet import ClassWords, EfficientNet, EfficientNetConfig, SameConv

SMALL = EfficientNetConfig(widths=(4, 8, 8, 12, 12, 16, 20), repeats=(1, 2, 1, 2, 1, 1, 1), stem=8, head=24, words=6)


def padded_as_tensorflow(x: torch.Tensor, kernel: int, stride: int) -> torch.Tensor:
    missing = [max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in x.shape[2:]]
    (top, left) = (one // 2 for one in missing)
    return F.pad(x, (left, missing[1] - left, top, missing[0] - top))


@given(st.sampled_from([1, 3, 5]), st.sampled_from([1, 2]), st.integers(3, 12), st.integers(3, 12))
@settings(max_examples=40, deadline=None)
def test_even_maps_are_padded_as_tensorflow_pads_them(kernel, stride, height, width):
    x = torch.randn(1, 2, 2 * height, 2 * width)
    conv = SameConv(2, 3, kernel, stride=stride)
    expected = F.conv2d(padded_as_tensorflow(x, kernel, stride), conv.weight, stride=stride)
    torch.testing.assert_close(conv(x), expected)


def test_maps_have_the_strides_and_channels_of_the_config():
    maps = EfficientNet(SMALL).eval()(torch.randn(2, 3, 64, 96))
    widths = (*SMALL.channels[:3], SMALL.channels[3] - SMALL.words)
    sizes = [(64 // stride, 96 // stride) for stride in (4, 8, 16, 32)]
    assert [x.shape for x in maps] == [(2, c, *size) for c, size in zip(widths, sizes, strict=True)]


def test_lite0_has_its_published_number_of_parameters():
    config = EfficientNetConfig(words=1)
    words = ClassWords(config)
    unpublished = (words.embeddings, words.residual, words.gate)
    own = sum(one.numel() for part in unpublished for one in part.parameters())
    published = [*EfficientNet(config).parameters(), *words.parameters()]
    assert sum(one.numel() for one in published) - own == 4_652_008


def test_a_sure_class_is_embedded_as_its_name():
    torch.manual_seed(0)
    words = ClassWords(SMALL).eval()
    pooled = torch.randn(3, SMALL.head)
    with torch.no_grad():
        words.classifier.weight *= 1e6
    best = words.classifier(pooled).argmax(1)
    torch.testing.assert_close(words.embed(pooled), words.embeddings.weight.T[best], atol=1e-4, rtol=1e-4)


def test_a_picture_of_one_cell_is_embedded_as_its_cell():
    torch.manual_seed(0)
    words, features = ClassWords(SMALL).eval(), torch.randn(2, SMALL.widths[-1], 1, 1)
    torch.testing.assert_close(words.of_cells(features)[:, :, 0, 0], words.embed(words.pool(features)))


@pytest.mark.parametrize("entry", [{"widths": (4, 8)}, {"repeats": (1, 1, 1, 1, 1, 1, 0)}])
def test_sizes_of_other_than_seven_groups_are_refused(entry):
    with pytest.raises(ValueError, match=f"{next(iter(entry))} is .*7 positive numbers"):
        EfficientNetConfig(**entry)
