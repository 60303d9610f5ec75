"""CLIP (Radford et al. 2021): an image tower and a text tower with a shared embedding space."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.clip.config import (
    ClipConfig,
    EfficientNetTowerConfig,
    ResNetTowerConfig,
    TextConfig,
    VisionTransformerConfig,
)
from models.layers.efficientnet import ClassWords, EfficientNet
from models.layers.resnet import AttentionPool, ModifiedResNet

POOLS = ("attention", "average")


def quick_gelu(x: Tensor) -> Tensor:
    """Sigmoid approximation of GELU, used in training the published weights."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"quick_gelu": quick_gelu, "gelu": functional.gelu}


class SelfAttention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} cannot be split into {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[B, T, C] -> [B, T, C]; `mask` [T, T] is True where a row may attend to a column."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [B, T, 3, heads, C / heads]
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [B, heads, T, C / heads]
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.output(mixed.transpose(1, 2).flatten(2))  # [B, T, C]


class TransformerBlock(nn.Module):
    """Pre-norm attention and feed-forward of four times the width, each with a residual."""

    def __init__(self, width: int, heads: int, activation: str, *, residual_std: float) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation is {activation!r}; accepted are {sorted(ACTIVATIONS)}")
        self.activation = ACTIVATIONS[activation]
        self.norm1 = nn.LayerNorm(width)
        self.attention = SelfAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        nn.init.normal_(self.attention.qkv.weight, std=width**-0.5)
        nn.init.zeros_(self.attention.qkv.bias)
        nn.init.normal_(self.attention.output.weight, std=residual_std)
        nn.init.zeros_(self.attention.output.bias)
        nn.init.normal_(self.expand.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(self.contract.weight, std=residual_std)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C]."""
        x = x + self.attention(self.norm1(x), mask)
        return x + self.contract(self.activation(self.expand(self.norm2(x))))


class Transformer(nn.Module):
    """Stack of blocks, initialised as the published models were."""

    def __init__(self, width: int, layers: int, heads: int, *, activation: str = "quick_gelu") -> None:
        super().__init__()
        residual_std = width**-0.5 * (2 * layers) ** -0.5
        self.blocks = nn.ModuleList(
            TransformerBlock(width, heads, activation, residual_std=residual_std) for _ in range(layers)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[B, T, C] -> [B, T, C]; `mask` [T, T] is True where a row may attend to a column."""
        for block in self.blocks:
            x = block(x, mask)
        return x


class VisionTransformer(nn.Module):
    """Vision transformer over patches, a leading class token and learned positions; pools at the class token."""

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
        class_token = self.class_token.expand(cells.shape[0], 1, -1)  # [B, 1, C]
        x = torch.cat([class_token, cells], dim=1) + self.positions  # [B, 1 + cells, C]
        x = self.transformer(self.norm_before(x))
        return self.projection(self.norm_after(x[:, 0]))


class ResNetTower(nn.Module):
    """A `ModifiedResNet`, and a pool into the shared space."""

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
        """[B, 3, S, S] -> [B, embed_dim]; S is image_size, or any size from 32 up with the average pool."""
        return self.pool(self.backbone(pixel_values))


class DrawingTower(nn.Module):
    """A `ResNetTower` with the average pool, that sees pictures small; its embedding in another space of words."""

    def __init__(self, config: ResNetTowerConfig, words: int) -> None:
        super().__init__()
        self.image_size = config.image_size
        self.tower = ResNetTower(config, words)
        self.output = nn.Linear(words, words)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, S, S] -> [B, words]."""
        return self.output(self.features(pixel_values))

    def features(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, S, S] -> unit embeddings of the tower [B, words]."""
        half = functional.avg_pool2d(pixel_values, 2)  # interpolation alone would skip pixels
        small = functional.interpolate(half, (self.image_size, self.image_size), mode="bilinear")
        return functional.normalize(self.tower(small), dim=1)


class EfficientNetTower(nn.Module):
    """An `EfficientNet` and the embedding of its classes, to which a `DrawingTower` may add what it sees."""

    def __init__(self, config: EfficientNetTowerConfig, embed_dim: int) -> None:
        super().__init__()
        if config.backbone.words != embed_dim:
            raise ValueError(f"the backbone's words is {config.backbone.words}; it must be embed_dim, {embed_dim}")
        self.backbone = EfficientNet(config.backbone)
        self.words = ClassWords(config.backbone)
        self.drawings = None if config.drawings is None else DrawingTower(config.drawings, embed_dim)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """[B, 3, S, S] of any size from 32 up -> [B, embed_dim]."""
        pooled = self.words.pool(self.backbone(pixel_values)[-1])
        return self.words.embed(pooled, None if self.drawings is None else self.drawings(pixel_values))


def build_image_tower(
    config: VisionTransformerConfig | ResNetTowerConfig | EfficientNetTowerConfig, embed_dim: int
) -> nn.Module:
    """Build the tower of a config by its type."""
    if isinstance(config, VisionTransformerConfig):
        return VisionTransformer(config, embed_dim)
    if isinstance(config, EfficientNetTowerConfig):
        return EfficientNetTower(config, embed_dim)
    return ResNetTower(config, embed_dim)


class TextTower(nn.Module):
    """Causal transformer, pooled at the end-of-text token.

    That token has the largest id of the vocabulary, so argmax finds it (openai/CLIP clip/model.py `encode_text`). The
    causal mask hides all that follows it: rows may be padded or cut there freely.
    """

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.randn(config.context_length, config.width) * 0.01)
        self.transformer = Transformer(config.width, config.layers, config.heads, activation=config.activation)
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, embed_dim, bias=False)
        nn.init.normal_(self.tokens.weight, std=0.02)
        nn.init.normal_(self.projection.weight, std=config.width**-0.5)

    def forward(self, input_ids: Tensor) -> Tensor:
        """[B, T] int64 with T up to context_length -> [B, embed_dim]."""
        length = input_ids.shape[1]
        x = self.tokens(input_ids) + self.positions[:length]  # [B, T, C]
        order = torch.arange(length, device=x.device)
        causal = order[:, None] >= order[None]  # [T, T]
        x = self.norm(self.transformer(x, causal))
        end = input_ids.argmax(dim=-1)  # [B]
        at_end = x[torch.arange(x.shape[0], device=x.device), end]  # [B, C]
        return self.projection(at_end)


class ClipOutput(NamedTuple):
    """Unit-length embeddings and the scaled cosines between them."""

    image_embeds: Tensor  # [B, D]
    text_embeds: Tensor  # [N, D]
    logits_per_image: Tensor  # [B, N]
    logits_per_text: Tensor  # [N, B]


class Clip(nn.Module):
    """Both towers, and `logit_scale`, the logarithm of the factor on cosines."""

    def __init__(self, config: ClipConfig) -> None:
        super().__init__()
        self.config = config
        self.image_tower = build_image_tower(config.image, config.embed_dim)
        self.text_tower = TextTower(config.text, config.embed_dim)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))  # paper section 2.5

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Encode pixels [B, 3, S, S] -> embeddings [B, D], not normalised."""
        return self.image_tower(pixel_values)

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """Encode ids [N, T] int64, T up to the context length -> embeddings [N, D], not normalised."""
        return self.text_tower(input_ids)

    def forward(self, pixel_values: Tensor, input_ids: Tensor) -> ClipOutput:
        """Compare every image of pixels [B, 3, S, S] with every text of ids [N, T]."""
        image_embeds = unit_length(self.encode_image(pixel_values))
        text_embeds = unit_length(self.encode_text(input_ids))
        logits = self.logit_scale.exp() * image_embeds @ text_embeds.T  # [B, N]
        return ClipOutput(image_embeds, text_embeds, logits, logits.T)


def unit_length(x: Tensor) -> Tensor:
    """Divide rows [..., D] by their L2 norm, without an epsilon, as the official code does."""
    return x / x.norm(dim=-1, keepdim=True)
