"""The image backbones of the detectors."""

from torch import Tensor, nn

from models.layers.resnet import ModifiedResNet, ResNetConfig
from models.layers.swin import Swin, SwinConfig


class ResNetStages(nn.Module):
    """pixel_values [B, 3, H, W] -> the maps [B, C, h, w] of `stages` (0 is stride 4)."""

    def __init__(self, config: ResNetConfig, stages: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = stages
        self.resnet = ModifiedResNet(config.blocks, config.width)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        maps = self.resnet.forward_features(pixel_values)
        return [maps[stage] for stage in self.stages]


def build_backbone(config: SwinConfig | ResNetConfig, stages: tuple[int, ...]) -> nn.Module:
    """The backbone of this config: pixel_values [B, 3, H, W] -> one map per stage in use."""
    if isinstance(config, ResNetConfig):
        return ResNetStages(config, stages)
    return Swin(config, stages)
