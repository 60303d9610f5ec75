"""CLIP's modified ResNet, also a backbone of small detectors, and its attention pool."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.configs import RESNET_EXPANSION as EXPANSION
from models.layers.configs import ResNetConfig


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions; an average pool before the last one, and in the shortcut, in place of a stride.

    The pool is CLIP's anti-aliasing (openai/CLIP clip/model.py).
    """

    def __init__(self, inputs: int, width: int, *, stride: int = 1) -> None:
        super().__init__()
        outputs = width * EXPANSION
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)
        nn.init.zeros_(self.norm3.weight)  # every block starts as its shortcut

    def forward(self, x: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, 4*width, H/stride, W/stride]."""
        out = functional.relu(self.norm1(self.conv1(x)))
        out = functional.relu(self.norm2(self.conv2(out)))
        out = self.norm3(self.conv3(self.pool(out)))
        return functional.relu(out + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
    return nn.Sequential(pool, nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class ModifiedResNet(nn.Module):
    """ResNet without a head, with a three-convolution stem and pooled strides (openai/CLIP clip/model.py)."""

    def __init__(self, blocks: tuple[int, int, int, int] = (3, 4, 6, 3), width: int = 64) -> None:
        super().__init__()
        if len(blocks) != 4 or min(blocks) < 1:
            raise ValueError(f"blocks is {blocks}; four stages of at least one block are needed")
        if width < 2 or width % 2:
            raise ValueError(f"width is {width}; a positive even number is needed")
        self.config = ResNetConfig(blocks, width)
        self.channels = self.config.channels
        self.stem = _stem(width)
        inputs = [width, *self.channels[:3]]
        self.stages = nn.ModuleList(
            _stage(inputs[i], width * 2**i, count, stride=1 if i == 0 else 2) for i, count in enumerate(blocks)
        )

    def forward_features(self, pixel_values: Tensor) -> list[Tensor]:
        """[B, 3, H, W] -> four stage maps [B, channels[i], ~H/s, ~W/s] with s = 4, 8, 16, 32 (rounded down)."""
        x = self.stem(pixel_values)  # [B, width, H/4, W/4]
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, H, W] -> last stage map [B, channels[3], ~H/32, ~W/32]."""
        return self.forward_features(pixel_values)[-1]


def _stem(width: int) -> nn.Sequential:
    half = width // 2
    return nn.Sequential(
        nn.Conv2d(3, half, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(half), nn.ReLU(),
        nn.Conv2d(half, half, 3, padding=1, bias=False), nn.BatchNorm2d(half), nn.ReLU(),
        nn.Conv2d(half, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AvgPool2d(2),
    )  # fmt: skip


def _stage(inputs: int, width: int, count: int, *, stride: int) -> nn.Sequential:
    first = Bottleneck(inputs, width, stride=stride)
    return nn.Sequential(first, *(Bottleneck(width * EXPANSION, width) for _ in range(count - 1)))


class AttentionPool(nn.Module):
    """Attention pool of a map: the mean cell, as the only query, attends to itself and to every cell."""

    def __init__(self, cells: int, width: int, *, heads: int, outputs: int) -> None:
        super().__init__()
        std = width**-0.5
        self.heads = heads
        self.positions = nn.Parameter(torch.randn(cells + 1, width) * std)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, outputs)
        for linear in (self.query, self.key, self.value, self.output):
            nn.init.normal_(linear.weight, std=std)

    def forward(self, features: Tensor) -> Tensor:
        """[B, C, h, w] with h * w = cells -> [B, outputs]."""
        cells = features.flatten(2).transpose(1, 2)  # [B, cells, C]
        x = torch.cat([cells.mean(1, keepdim=True), cells], dim=1) + self.positions  # [B, 1 + cells, C]
        query = self._split(self.query(x[:, :1]))
        pooled = functional.scaled_dot_product_attention(query, self._split(self.key(x)), self._split(self.value(x)))
        return self.output(pooled.transpose(1, 2).flatten(1))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, heads, tokens, C / heads]
