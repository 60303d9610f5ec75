"""Image backbones of the detectors, and nearest-neighbour indices to resize maps by."""

import torch
from torch import Tensor, nn

from models.layers.efficientnet import ClassWords, EfficientNet, EfficientNetConfig
from models.layers.resnet import ModifiedResNet, ResNetConfig
from models.layers.swin import Swin, SwinConfig


class ResNetStages(nn.Module):
    """ResNet backbone: pixel_values [B, 3, H, W] -> maps [B, C, h, w] of `stages` (0 has stride 4)."""

    def __init__(self, config: ResNetConfig, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = stages
        self.resnet = ModifiedResNet(config.blocks, config.width)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        maps = self.resnet.forward_features(pixel_values)
        return [maps[stage] for stage in self.stages]


class EfficientNetStages(nn.Module):
    """EfficientNet backbone: pixel_values [B, 3, H, W] -> maps [B, C, h, w] of `stages` (0 has stride 4).

    With words, the map of stride 32 ends with the embedding of each cell.
    """

    def __init__(self, config: EfficientNetConfig, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = stages
        self.efficientnet = EfficientNet(config)
        self.words = ClassWords(config) if config.words else None

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        maps = self.efficientnet(pixel_values)
        if self.words is not None:
            maps[-1] = torch.cat([maps[-1], self.words.of_cells(maps[-1])], 1)
        return [maps[stage] for stage in self.stages]


BackboneConfig = SwinConfig | ResNetConfig | EfficientNetConfig


def build_backbone(config: BackboneConfig, stages: tuple[int, ...]) -> nn.Module:
    """Build the backbone of a config: pixel_values [B, 3, H, W] -> one map per stage in use."""
    if isinstance(config, EfficientNetConfig):
        return EfficientNetStages(config, stages)
    if isinstance(config, ResNetConfig):
        return ResNetStages(config, stages)
    return Swin(config, stages)


def nearest_index(source: int, target: int, device: torch.device) -> Tensor:
    """[target] int64: source cell of each target cell, in float32 as F.interpolate computes it.

    Written out, since runtimes round the scale of a resize differently.
    """
    position = torch.arange(target, device=device).float()
    return (position * (source / target)).long()
