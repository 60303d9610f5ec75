"""Image backbones of the detectors, and nearest-neighbour indices to resize maps by."""

import torch
from torch import Tensor, nn

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


def build_backbone(config: SwinConfig | ResNetConfig, stages: tuple[int, ...]) -> nn.Module:
    """Build the backbone of a config: pixel_values [B, 3, H, W] -> one map per stage in use."""
    if isinstance(config, ResNetConfig):
        return ResNetStages(config, stages)
    return Swin(config, stages)


def nearest_index(source: int, target: int, device: torch.device) -> Tensor:
    """[target] int64: source cell of each target cell, in float32 as F.interpolate computes it.

    Written out, since runtimes round the scale of a resize differently.
    """
    position = torch.arange(target, device=device).float()
    return (position * (source / target)).long()
