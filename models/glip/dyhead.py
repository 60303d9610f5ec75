"""Dynamic head (Dai et al. 2021): deformable convolution within and across levels, scale- and task-aware attention."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.glip.config import GlipConfig
from models.glip.deformable import DeformConv

TAPS = 9
SQUEEZE = 4


class DynamicConv(nn.Module):
    """One layer: each level [B, C, h, w] gathers from itself and from its neighbours.

    The mean of two or three maps, each times a scale weight of its own, goes through a dynamic ReLU (GLIP
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
        return [self.activation(self._gathered(levels, number)) for number in range(len(levels))]

    def _gathered(self, levels: list[Tensor], number: int) -> Tensor:
        """The scale-weighted mean of what a level reads from itself, the finer and the coarser one."""
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
    """The first values of maps [B, N, H, W], taken as if they had the size of `coarser` [B, C, h, w]: [B, N, h, w].

    The published kernel never looks at the size of the offsets it is given: on a coarser level it reads the memory of
    this level's as if it were of that size (GLIP csrc/cuda/deform_conv_cuda.cu), and the weights were trained so.
    """
    channels, height, width = maps.shape[1], coarser.shape[2], coarser.shape[3]
    return maps.flatten(1)[:, : channels * height * width].reshape(maps.shape[0], channels, height, width)


class DynamicReLU(nn.Module):
    """The larger of two lines per channel, whose slopes and intercepts come from the pooled map (Chen et al. 2020).

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
    """The mean [B, C, 1, 1] of a map [B, C, h, w], padding included."""
    return x.mean((2, 3), keepdim=True)


def hard_sigmoid(x: Tensor) -> Tensor:
    """relu6(x + 3) / 6."""
    return F.relu6(x + 3) / 6
