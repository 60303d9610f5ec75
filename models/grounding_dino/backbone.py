"""Image backbone and the neck that brings its maps to one width."""

from typing import cast

from torch import Tensor, nn

from models.grounding_dino.config import GroundingDinoConfig
from models.layers.resnet import ModifiedResNet, ResNetConfig
from models.layers.swin import Swin

GROUPS = 32


class ResNetStages(nn.Module):
    """pixel_values [B, 3, H, W] -> the maps [B, C, h, w] of `stages` (0 is stride 4)."""

    def __init__(self, config: ResNetConfig, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = stages
        self.resnet = ModifiedResNet(config.blocks, config.width)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        maps = self.resnet.forward_features(pixel_values)
        return [maps[stage] for stage in self.stages]


def build_backbone(config: GroundingDinoConfig) -> nn.Module:
    """The backbone that the config names: pixel_values [B, 3, H, W] -> one map per stage in use."""
    if isinstance(config.backbone, ResNetConfig):
        return ResNetStages(config.backbone, config.stages)
    return Swin(config.backbone, config.stages)


class Neck(nn.Module):
    """Backbone maps -> `levels` maps [B, d_model, h, w]; what the backbone lacks is made by stride-2 convolutions.

    The first of those reads the last backbone map itself, not its projection (GroundingDINO groundingdino.py).
    """

    def __init__(self, config: GroundingDinoConfig) -> None:
        super().__init__()
        channels = [config.backbone.channels[stage] for stage in config.stages]
        self.lateral = nn.ModuleList(_project(c, config.d_model, kernel=1, stride=1) for c in channels)
        extra = config.levels - len(channels)
        inputs = [channels[-1], *[config.d_model] * extra][:extra]
        self.extra = nn.ModuleList(_project(c, config.d_model, kernel=3, stride=2) for c in inputs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [project(x) for project, x in zip(self.lateral, maps, strict=True)]
        last = maps[-1]
        for project in self.extra:
            last = project(last)
            levels.append(last)
        return levels


def _project(inputs: int, outputs: int, *, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(cast(Tensor, conv.bias))
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, outputs))
