"""Configuration of CLIP: the nine variants that OpenAI published, and the config.json of Hugging Face folders."""

from dataclasses import dataclass, replace
from typing import Any

from models import UnknownCheckpoint
from models.layers.configs import EfficientNetConfig, ResNetConfig

ACTIVATION_NAMES = ("quick_gelu", "gelu")
# Defaults of entries that a config.json may leave out (transformers 4.45 configuration_clip.py).
TEXT_DEFAULTS = {
    "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8,
    "max_position_embeddings": 77, "vocab_size": 49408, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "eos_token_id": 49407,
}  # fmt: skip
VISION_DEFAULTS = {
    "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12,
    "image_size": 224, "patch_size": 32, "num_channels": 3, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
}  # fmt: skip
# transformers pools at argmax for this id, which old configs carry by mistake, and at the first end token otherwise.
LEGACY_END_ID = 2


@dataclass(frozen=True)
class TextConfig:
    """Text transformer; the end-of-text token must have the largest id of its vocabulary."""

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
class EfficientNetTowerConfig:
    """Image tower of an EfficientNet, whose classes are embedded in the space of words; and one for drawings."""

    image_size: int
    backbone: EfficientNetConfig
    drawings: ResNetTowerConfig | None = None


@dataclass(frozen=True)
class ClipConfig:
    """Both towers, and the size of their shared embedding space."""

    embed_dim: int
    image: VisionTransformerConfig | ResNetTowerConfig | EfficientNetTowerConfig
    text: TextConfig


def _vit(embed_dim: int, image_size: int, patch_size: int, width: int, layers: int, text_width: int) -> ClipConfig:
    image = VisionTransformerConfig(image_size, patch_size, width, layers, heads=width // 64)
    return ClipConfig(embed_dim, image, TextConfig(text_width, layers=12, heads=text_width // 64))


def _resnet(
    embed_dim: int, image_size: int, blocks: tuple[int, int, int, int], width: int, text_width: int
) -> ClipConfig:
    image = ResNetTowerConfig(image_size, ResNetConfig(blocks, width), heads=width * 32 // 64)
    return ClipConfig(embed_dim, image, TextConfig(text_width, layers=12, heads=text_width // 64))


# As openai/CLIP clip/model.py `build_model` derives them from the published shapes.
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


def config_from_hf(data: dict[str, Any]) -> ClipConfig:
    """Config of a CLIPModel's config.json."""
    if data.get("model_type", "clip") != "clip":
        raise UnknownCheckpoint(
            f"config.json says model_type {data['model_type']!r}, the weights are named like 'clip'"
        )
    text, vision = _section(data, "text", TEXT_DEFAULTS), _section(data, "vision", VISION_DEFAULTS)
    _require("text eos_token_id", text["eos_token_id"], (LEGACY_END_ID, text["vocab_size"] - 1))
    _require("vision num_channels", vision["num_channels"], (3,))
    return ClipConfig(
        embed_dim=_count("projection_dim", data.get("projection_dim", 512)),
        image=VisionTransformerConfig(
            image_size=vision["image_size"],
            patch_size=vision["patch_size"],
            width=vision["hidden_size"],
            layers=vision["num_hidden_layers"],
            heads=vision["num_attention_heads"],
            activation=vision["hidden_act"],
        ),
        text=TextConfig(
            width=text["hidden_size"],
            layers=text["num_hidden_layers"],
            heads=text["num_attention_heads"],
            vocab_size=text["vocab_size"],
            context_length=text["max_position_embeddings"],
            activation=text["hidden_act"],
        ),
    )


def hf_values(config: ClipConfig) -> dict[str, tuple[Any, ...]]:
    """Entries of a config.json that describe this config, by dotted name; None where the entry may be absent."""
    image, text = config.image, config.text
    assert isinstance(image, VisionTransformerConfig), "Hugging Face's CLIP has vision transformers only"
    values: dict[str, dict[str, tuple[Any, ...]]] = {"text": {}, "vision": {}}
    for name, tower in (("text", text), ("vision", image)):
        values[name] = {
            "hidden_size": (tower.width,),
            "intermediate_size": (4 * tower.width,),
            "num_hidden_layers": (tower.layers,),
            "num_attention_heads": (tower.heads,),
            "hidden_act": (tower.activation,),
            "layer_norm_eps": (1e-5,),
        }
    values["text"] |= {
        "vocab_size": (text.vocab_size,),
        "max_position_embeddings": (text.context_length,),
        "eos_token_id": (text.vocab_size - 1, LEGACY_END_ID),
    }
    values["vision"] |= {"image_size": (image.image_size,), "patch_size": (image.patch_size,), "num_channels": (3,)}
    found: dict[str, tuple[Any, ...]] = {"model_type": ("clip", None)}
    found["projection_dim"] = (512, None) if config.embed_dim == 512 else (config.embed_dim,)
    for name, defaults in (("text", TEXT_DEFAULTS), ("vision", VISION_DEFAULTS)):
        for entry, accepted in values[name].items():
            found[f"{name}_config.{entry}"] = (*accepted, None) if defaults[entry] in accepted else accepted
    return found


def with_activation(config: ClipConfig, activation: str) -> ClipConfig:
    """The config with this activation in its transformers."""
    image = config.image
    if isinstance(image, VisionTransformerConfig):
        image = replace(image, activation=activation)
    return replace(config, image=image, text=replace(config.text, activation=activation))


# As open_clip trains them by default; their shapes are OpenAI's.
GELU_CONFIGS = {
    f"{name} (GELU)": with_activation(CLIP_CONFIGS[name], "gelu") for name in ("ViT-B/32", "ViT-B/16", "ViT-L/14")
}


def _section(data: dict[str, Any], tower: str, defaults: dict[str, Any]) -> dict[str, Any]:
    # Older files repeat a section as "..._config_dict", which takes precedence, as in transformers.
    stored = data.get(f"{tower}_config_dict") or data.get(f"{tower}_config") or {}
    if not isinstance(stored, dict):
        raise UnknownCheckpoint(f"config.json has {tower}_config {stored!r}; an object is expected")
    values = {name: stored.get(name, default) for name, default in defaults.items()}
    for name, default in defaults.items():
        if isinstance(default, int):
            _count(f"{tower} {name}", values[name])
    _require(f"{tower} hidden_act", values["hidden_act"], ACTIVATION_NAMES)
    _require(f"{tower} layer_norm_eps", values["layer_norm_eps"], (1e-5,))
    _require(f"{tower} intermediate_size", values["intermediate_size"], (4 * values["hidden_size"],))
    if values["hidden_size"] % values["num_attention_heads"]:
        raise UnknownCheckpoint(f"config.json: {tower} hidden_size {values['hidden_size']} is no multiple of its heads")
    return values


def _count(name: str, value: Any) -> int:
    if type(value) is not int or not 0 < value <= 1_000_000:
        raise UnknownCheckpoint(f"config.json has {name} {value!r}; a positive whole number is expected")
    return value


def _require(name: str, value: Any, accepted: tuple[Any, ...]) -> None:
    if value not in accepted:
        raise UnknownCheckpoint(f"config.json has {name} {value!r}; supported are {accepted}")
