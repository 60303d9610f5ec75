"""VL DyHead: layers of image-text fusion, BERT self-attention of the text and dynamic convolution of the image.

The dynamic head (Dai et al. 2021) is deformable convolution within and across levels, with scale- and task-aware
attention.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.glip.config import GlipConfig
from models.glip.deformable import DeformConv
from models.layers.bert import BertLayer
from models.layers.fusion import FusionLayer

TAPS = 9
SQUEEZE = 4  # reduction of the dynamic ReLU's hidden layer


class TowerOutput(NamedTuple):
    """Level maps [B, C, h, w], and text [B, T, W]."""

    levels: list[Tensor]
    text: Tensor


class TowerLayer(nn.Module):
    """One layer; without fusion the text is unchanged (GLIP modeling/rpn/vldyhead.py `VLDyHead`).

    GLIP clamps BERT's scores and activations at +-50000 for half precision; in float32 that changes nothing.
    """

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        self.fusion = self.text_layer = None
        if config.fused:
            gamma = 1 / config.tower_layers
            self.fusion = FusionLayer(
                config.channels, config.text.width, config.fusion_hidden, config.fusion_heads, gamma
            )
            self.text_layer = BertLayer(config.text)
            # Starts as the identity: fresh attention would make all tokens alike, and leave the alignment nothing to
            # tell labels apart by.
            for linear in (self.text_layer.attention.out_proj, self.text_layer.ffn.fc2):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
        self.conv = DynamicConv(config)

    def forward(self, levels: list[Tensor], text: Tensor, text_mask: Tensor) -> TowerOutput:
        """text_mask [B, T] bool, True = token."""
        if self.fusion is not None and self.text_layer is not None:
            image, text = self.fusion(flatten_levels(levels), text, None, text_mask)
            levels = unflatten_levels(image, levels)
            text = self.text_layer(text, text_mask[:, None, None])
        return TowerOutput(self.conv(levels), text)


def flatten_levels(levels: list[Tensor]) -> Tensor:
    """Concatenate level maps [B, C, h, w] to [B, S, C], the finest level first, each row by row."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1)


def unflatten_levels(image: Tensor, levels: list[Tensor]) -> list[Tensor]:
    """Split [B, S, C] into maps of the sizes of `levels`: the inverse of `flatten_levels`."""
    maps, start = [], 0
    for x in levels:
        end = start + x.shape[2] * x.shape[3]
        positions = image[:, start:end].transpose(1, 2)
        maps.append(positions.reshape(x.shape[0], -1, x.shape[2], x.shape[3]))
        start = end
    return maps


class DynamicConv(nn.Module):
    """Dynamic convolution: each level [B, C, h, w] reads itself and its neighbours.

    The mean of two or three maps, each times its scale attention, goes through a dynamic ReLU (GLIP
    modeling/rpn/vldyhead.py `DyConv`).
    """

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        width, groups = config.channels, config.norm_groups
        self.offset = nn.Conv2d(width, 3 * TAPS, 3, padding=1)
        self.coarser = DeformConv(width, stride=1, groups=groups)
        self.same = DeformConv(width, stride=1, groups=groups)
        self.finer = DeformConv(width, stride=2, groups=groups)
        self.scale_attention = nn.Conv2d(width, 1, 1)
        self.activation = DynamicReLU(width)
        nn.init.normal_(self.scale_attention.weight, std=0.01)
        for conv in (self.scale_attention, self.offset):
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)
        nn.init.normal_(self.offset.weight, std=0.01)

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        return [self.activation(self._gather(levels, number)) for number in range(len(levels))]

    def _gather(self, levels: list[Tensor], number: int) -> Tensor:
        """Scale-weighted mean of the maps that a level reads from itself, the finer and the coarser level."""
        own = levels[number]
        offsets, weights = self.offset(own).split((2 * TAPS, TAPS), dim=1)
        weights = weights.sigmoid()
        gathered = [self.same(own, offsets, weights)]
        if number > 0:
            gathered.append(self.finer(levels[number - 1], offsets, weights))
        if number < len(levels) - 1:
            above = levels[number + 1]
            read = self.coarser(above, reread(offsets, above), reread(weights, above))
            gathered.append(F.interpolate(read, size=own.shape[2:], mode="bilinear", align_corners=True))
        scaled = [x * hard_sigmoid(torch.relu(self.scale_attention(pooled(x)))) for x in gathered]
        return torch.stack(scaled).mean(0)


def reread(maps: Tensor, coarser: Tensor) -> Tensor:
    """Read the first values of maps [B, N, H, W] as maps of the size of `coarser` [B, C, h, w]: [B, N, h, w].

    The published kernel ignores the size of its offsets: on a coarser level it reads the memory of this level's offsets
    as if they had that size (GLIP csrc/cuda/deform_conv_cuda.cu), and the weights were trained so.
    """
    channels, height, width = maps.shape[1], coarser.shape[2], coarser.shape[3]
    return maps.flatten(1)[:, : channels * height * width].reshape(maps.shape[0], channels, height, width)


class DynamicReLU(nn.Module):
    """Maximum of two lines per channel, whose slopes and intercepts come from the pooled map (Chen et al. 2020).

    [B, C, h, w] -> [B, C, h, w] (GLIP layers/dyrelu.py).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // SQUEEZE)
        self.fc2 = nn.Linear(channels // SQUEEZE, 4 * channels)

    def forward(self, x: Tensor) -> Tensor:
        lines = hard_sigmoid(self.fc2(torch.relu(self.fc1(pooled(x).flatten(1)))))[:, :, None, None]
        slope1, intercept1, slope2, intercept2 = (lines - 0.5).chunk(4, dim=1)
        return torch.maximum(x * (2 * slope1 + 1) + intercept1, x * (2 * slope2) + intercept2)


def pooled(x: Tensor) -> Tensor:
    """Mean [B, C, 1, 1] of a map [B, C, h, w], padding included."""
    return x.mean((2, 3), keepdim=True)


def hard_sigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    return F.relu6(x + 3) / 6
