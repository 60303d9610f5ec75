"""Image towers of CLIP: pixels to one vector in the shared space."""

import torch
from torch import Tensor, nn

from models.clip.config import ResNetTowerConfig, VisionTransformerConfig
from models.clip.transformer import Transformer
from models.layers.resnet import AttentionPool, ModifiedResNet

POOLS = ("attention", "average")


class VisionTransformer(nn.Module):
    """Patches, a class token in front, learned positions; the class token's last state is the answer."""

    def __init__(self, config: VisionTransformerConfig, embed_dim: int) -> None:
        super().__init__()
        width, std = config.width, config.width**-0.5
        self.image_size = config.image_size
        cells = (config.image_size // config.patch_size) ** 2
        self.patches = nn.Conv2d(3, width, config.patch_size, stride=config.patch_size, bias=False)
        self.class_token = nn.Parameter(torch.randn(width) * std)
        self.positions = nn.Parameter(torch.randn(cells + 1, width) * std)
        self.norm_before = nn.LayerNorm(width)
        self.transformer = Transformer(width, config.layers, config.heads, activation=config.activation)
        self.norm_after = nn.LayerNorm(width)
        self.projection = nn.Linear(width, embed_dim, bias=False)
        nn.init.normal_(self.projection.weight, std=std)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, S, S] with S = image_size -> [B, embed_dim]."""
        if tuple(pixel_values.shape[-2:]) != (self.image_size, self.image_size):
            raise ValueError(
                f"pixel_values is {tuple(pixel_values.shape)}; this tower takes {self.image_size} px squares"
            )
        cells = self.patches(pixel_values).flatten(2).transpose(1, 2)  # [B, cells, C]
        start = self.class_token.expand(cells.shape[0], 1, -1)  # [B, 1, C]
        x = torch.cat([start, cells], dim=1) + self.positions  # [B, 1 + cells, C]
        x = self.transformer(self.norm_before(x))
        return self.projection(self.norm_after(x[:, 0]))


class ResNetTower(nn.Module):
    """A `ModifiedResNet` and a pool into the shared space."""

    def __init__(self, config: ResNetTowerConfig, embed_dim: int) -> None:
        super().__init__()
        if config.pool not in POOLS:
            raise ValueError(f"pool is {config.pool!r}; accepted are {POOLS}")
        self.backbone = ModifiedResNet(config.backbone.blocks, config.backbone.width)
        channels = self.backbone.channels[-1]
        self.pool: nn.Module
        if config.pool == "attention":
            cells = (config.image_size // 32) ** 2
            self.pool = AttentionPool(cells, channels, heads=config.heads, outputs=embed_dim)
        else:
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, embed_dim))

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, embed_dim]; S is image_size, or anything from 32 up with the average pool."""
        return self.pool(self.backbone(pixel_values))


def build_image_tower(config: VisionTransformerConfig | ResNetTowerConfig, embed_dim: int) -> nn.Module:
    """The tower that fits the type of its config."""
    if isinstance(config, VisionTransformerConfig):
        return VisionTransformer(config, embed_dim)
    return ResNetTower(config, embed_dim)
