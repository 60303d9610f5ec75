"""Sizes of CLIP models; `CLIP_CONFIGS` holds the nine that OpenAI published."""

from dataclasses import dataclass

from models.layers.resnet import ResNetConfig


@dataclass(frozen=True)
class TextConfig:
    """Text transformer; the end-of-text token must be the largest id of its vocabulary."""

    width: int
    layers: int
    heads: int
    vocab_size: int = 49408
    context_length: int = 77
    activation: str = "quick_gelu"


@dataclass(frozen=True)
class VisionTransformerConfig:
    """Vision transformer over square patches of a square image."""

    image_size: int
    patch_size: int
    width: int
    layers: int
    heads: int
    activation: str = "quick_gelu"


@dataclass(frozen=True)
class ResNetTowerConfig:
    """Residual image tower; `pool` is "attention" (as published) or "average" (small models, any image size)."""

    image_size: int
    backbone: ResNetConfig
    pool: str = "attention"
    heads: int = 32


@dataclass(frozen=True)
class ClipConfig:
    """Both towers and the size of the space they share."""

    embed_dim: int
    image: VisionTransformerConfig | ResNetTowerConfig
    text: TextConfig


def _vit(embed_dim: int, image_size: int, patch_size: int, width: int, layers: int, text_width: int) -> ClipConfig:
    image = VisionTransformerConfig(image_size, patch_size, width, layers, heads=width // 64)
    return ClipConfig(embed_dim, image, TextConfig(text_width, layers=12, heads=text_width // 64))


def _resnet(
    embed_dim: int, image_size: int, blocks: tuple[int, int, int, int], width: int, text_width: int
) -> ClipConfig:
    image = ResNetTowerConfig(image_size, ResNetConfig(blocks, width), heads=width * 32 // 64)
    return ClipConfig(embed_dim, image, TextConfig(text_width, layers=12, heads=text_width // 64))


# Read back from the published shapes as openai/CLIP clip/model.py `build_model` does.
CLIP_CONFIGS: dict[str, ClipConfig] = {
    "RN50": _resnet(1024, 224, (3, 4, 6, 3), 64, 512),
    "RN101": _resnet(512, 224, (3, 4, 23, 3), 64, 512),
    "RN50x4": _resnet(640, 288, (4, 6, 10, 6), 80, 640),
    "RN50x16": _resnet(768, 384, (6, 8, 18, 8), 96, 768),
    "RN50x64": _resnet(1024, 448, (3, 15, 36, 10), 128, 1024),
    "ViT-B/32": _vit(512, 224, 32, 768, 12, 512),
    "ViT-B/16": _vit(512, 224, 16, 768, 12, 512),
    "ViT-L/14": _vit(768, 224, 14, 1024, 24, 768),
    "ViT-L/14@336px": _vit(768, 336, 14, 1024, 24, 768),
}
