"""Image backbones of the detectors, and the resizing of maps by nearest neighbour."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.layers.configs import BackboneConfig, EfficientNetConfig, ResNetConfig
from models.layers.efficientnet import ClassWords, DrawnWords, EfficientNet
from models.layers.resnet import ModifiedResNet
from models.layers.swin import Swin


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
        if config.drawn and stages[-3:] != (1, 2, 3):
            raise ValueError(f"drawn needs the stages 1, 2 and 3 last; stages is {stages}")
        self.config, self.stages = config, stages
        self.efficientnet = EfficientNet(config)
        self.words = ClassWords(config) if config.words else None
        self.drawn = DrawnWords(config) if config.drawn else None

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        maps = self.efficientnet(pixel_values)
        if self.words is not None:
            maps[-1] = torch.cat([maps[-1], self.words.of_cells(maps[-1])], 1)
        return [maps[stage] for stage in self.stages]


def word_maps(backbone: nn.Module, maps: Sequence[Tensor]) -> list[Tensor]:
    """Map of words [B, words, h, w] of a backbone that has them, of stride 32, or of 16 with drawings."""
    if not isinstance(backbone, EfficientNetStages) or backbone.words is None:
        return []
    size = backbone.words.embeddings.out_features
    words = maps[-1][:, -size:]
    if backbone.drawn is None:
        return [words]
    fine, middle, coarse = maps[-3:]
    drawn = backbone.drawn.of_cells(drawn_cells(fine, middle, coarse[:, :-size]))
    return [nearest(words, *middle.shape[2:]) + drawn]


def drawn_cells(fine: Tensor, middle: Tensor, coarse: Tensor) -> Tensor:
    """Maps of strides 8, 16 and 32 -> what `DrawnWords` reads in each cell of stride 16 [B, C, h, w]."""
    return torch.cat([functional.avg_pool2d(fine, 2), middle, nearest(coarse, *middle.shape[2:])], 1)


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


def nearest(x: Tensor, height: int, width: int) -> Tensor:
    """Resize [B, C, h, w] to [B, C, height, width] by nearest neighbour."""
    rows = nearest_index(x.shape[2], height, x.device)
    columns = nearest_index(x.shape[3], width, x.device)
    return x.index_select(2, rows).index_select(3, columns)
