"""Weights under their published names give what a plain restatement of the published network gives."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from models import WeightsDoNotFit
from models.efficientnet_weights import load_efficientnet
from models.layers.efficientnet import EXPANSIONS, KERNELS, STRIDES, ClassWords, EfficientNet, EfficientNetConfig
from tests.models.layers.test_efficientnet import SMALL, padded_as_tensorflow

Tensors = dict[str, torch.Tensor]


def blocks(config: EfficientNetConfig) -> Iterator[tuple[int, int, int, int, int]]:
    """Inputs, outputs, kernel, stride and expansion of each block."""
    inputs = config.stem
    for group, (width, count) in enumerate(zip(config.widths, config.repeats, strict=True)):
        for number in range(count):
            yield inputs, width, KERNELS[group], STRIDES[group] if number == 0 else 1, EXPANSIONS[group]
            inputs = width


def published(config: EfficientNetConfig) -> Tensors:
    """Random weights under the names of the package."""
    made: Tensors = {}

    def conv(name: str, *shape: int) -> None:
        made[f"{name}.weight"] = torch.randn(shape) * (2 / (shape[1] * shape[2] ** 2)) ** 0.5

    def norm(name: str, channels: int) -> None:
        made[f"{name}.weight"], made[f"{name}.bias"] = 0.5 + torch.rand(channels), torch.randn(channels) * 0.1
        made[f"{name}.running_mean"], made[f"{name}.running_var"] = torch.randn(channels), 0.5 + torch.rand(channels)
        made[f"{name}.num_batches_tracked"] = torch.tensor(7)

    conv("_conv_stem", config.stem, 3, 3, 3)
    norm("_bn0", config.stem)
    for number, (inputs, outputs, kernel, _, expansion) in enumerate(blocks(config)):
        name, width = f"_blocks.{number}", inputs * expansion
        if expansion > 1:
            conv(f"{name}._expand_conv", width, inputs, 1, 1)
            norm(f"{name}._bn0", width)
        conv(f"{name}._depthwise_conv", width, 1, kernel, kernel)
        norm(f"{name}._bn1", width)
        conv(f"{name}._project_conv", outputs, width, 1, 1)
        norm(f"{name}._bn2", outputs)
    conv("_conv_head", config.head, config.widths[-1], 1, 1)
    norm("_bn1", config.head)
    made["_fc.weight"], made["_fc.bias"] = torch.randn(config.classes, config.head), torch.randn(config.classes)
    return made


def expected(tensors: Tensors, config: EfficientNetConfig, x: torch.Tensor) -> torch.Tensor:
    """Logits of the published network, restated."""

    def conv(x: torch.Tensor, name: str, *, stride: int = 1, groups: int = 1) -> torch.Tensor:
        weight = tensors[f"{name}.weight"]
        return F.conv2d(padded_as_tensorflow(x, weight.shape[2], stride), weight, stride=stride, groups=groups)

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        statistics = tensors[f"{name}.running_mean"], tensors[f"{name}.running_var"]
        return F.batch_norm(x, *statistics, tensors[f"{name}.weight"], tensors[f"{name}.bias"], eps=1e-3)

    x = F.relu6(norm(conv(x, "_conv_stem", stride=2), "_bn0"))
    for number, (inputs, outputs, _, stride, expansion) in enumerate(blocks(config)):
        name, before = f"_blocks.{number}", x
        if expansion > 1:
            x = F.relu6(norm(conv(x, f"{name}._expand_conv"), f"{name}._bn0"))
        x = F.relu6(norm(conv(x, f"{name}._depthwise_conv", stride=stride, groups=x.shape[1]), f"{name}._bn1"))
        x = norm(conv(x, f"{name}._project_conv"), f"{name}._bn2")
        x = x + before if stride == 1 and inputs == outputs else x
    x = F.relu6(norm(conv(x, "_conv_head"), "_bn1")).mean((2, 3))
    return F.linear(x, tensors["_fc.weight"], tensors["_fc.bias"])


@torch.no_grad()
def test_published_weights_give_what_the_published_network_gives():
    torch.manual_seed(0)
    tensors, backbone, words = published(SMALL), EfficientNet(SMALL).eval(), ClassWords(SMALL).eval()
    placed = words.embeddings.weight.clone()
    load_efficientnet(tensors, backbone, words)
    pixels = torch.randn(2, 3, 64, 96)
    logits = words.classifier(words.head(backbone(pixels)[-1]).mean((2, 3)))
    torch.testing.assert_close(logits, expected(tensors, SMALL, pixels))
    assert torch.equal(words.embeddings.weight, placed)  # which no published weight is


@pytest.mark.parametrize("change", ["missing", "left over", "another shape"])
def test_weights_that_do_not_fit_are_refused_by_name(change):
    tensors = published(SMALL)
    if change == "missing":
        del tensors["_blocks.3._bn1.bias"]
    elif change == "left over":
        tensors["_blocks.99._bn1.bias"] = torch.zeros(3)
    else:
        tensors["_blocks.3._bn1.bias"] = torch.zeros(1)
    with pytest.raises(WeightsDoNotFit, match=r"_blocks\.\d+\._bn1\.bias"):
        load_efficientnet(tensors, EfficientNet(SMALL), ClassWords(SMALL))
