"""Published CLIP weights: literal tables of state-dict keys (stored -> ours), and recognition of the size."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from models import UnknownCheckpoint, WeightsDoNotFit
from models.clip.config import (
    CLIP_CONFIGS,
    GELU_CONFIGS,
    ClipConfig,
    EfficientNetTowerConfig,
    ResNetTowerConfig,
    VisionTransformerConfig,
    config_from_hf,
    hf_values,
    with_activation,
)
from models.clip.model import Clip
from models.state_dict_map import fill
from models.tensor_sources import PublishedTable, Source, same, stacked, transposed

OPENAI = {
    "logit_scale": "logit_scale",
    "token_embedding.weight": "text_tower.tokens.weight",
    "positional_embedding": "text_tower.positions",
    "ln_final.weight": "text_tower.norm.weight",
    "ln_final.bias": "text_tower.norm.bias",
}
OPENAI_VIT = {
    "visual.class_embedding": "image_tower.class_token",
    "visual.positional_embedding": "image_tower.positions",
    "visual.conv1.weight": "image_tower.patches.weight",
    "visual.ln_pre.weight": "image_tower.norm_before.weight",
    "visual.ln_pre.bias": "image_tower.norm_before.bias",
    "visual.ln_post.weight": "image_tower.norm_after.weight",
    "visual.ln_post.bias": "image_tower.norm_after.bias",
}
OPENAI_BLOCK = {
    "attn.in_proj_weight": "attention.qkv.weight",
    "attn.in_proj_bias": "attention.qkv.bias",
    "attn.out_proj.weight": "attention.output.weight",
    "attn.out_proj.bias": "attention.output.bias",
    "ln_1.weight": "norm1.weight",
    "ln_1.bias": "norm1.bias",
    "mlp.c_fc.weight": "expand.weight",
    "mlp.c_fc.bias": "expand.bias",
    "mlp.c_proj.weight": "contract.weight",
    "mlp.c_proj.bias": "contract.bias",
    "ln_2.weight": "norm2.weight",
    "ln_2.bias": "norm2.bias",
}
OPENAI_POOL = {
    "visual.attnpool.positional_embedding": "image_tower.pool.positions",
    "visual.attnpool.q_proj.weight": "image_tower.pool.query.weight",
    "visual.attnpool.q_proj.bias": "image_tower.pool.query.bias",
    "visual.attnpool.k_proj.weight": "image_tower.pool.key.weight",
    "visual.attnpool.k_proj.bias": "image_tower.pool.key.bias",
    "visual.attnpool.v_proj.weight": "image_tower.pool.value.weight",
    "visual.attnpool.v_proj.bias": "image_tower.pool.value.bias",
    "visual.attnpool.c_proj.weight": "image_tower.pool.output.weight",
    "visual.attnpool.c_proj.bias": "image_tower.pool.output.bias",
}
# Convolutions, each followed by a batch normalisation; the stem is a sequence, so its modules are numbered.
OPENAI_STEM = {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4", "conv3": "6", "bn3": "7"}
OPENAI_BOTTLENECK = {
    "conv1": "conv1",
    "bn1": "norm1",
    "conv2": "conv2",
    "bn2": "norm2",
    "conv3": "conv3",
    "bn3": "norm3",
}
OPENAI_SHORTCUT = {"downsample.0": "shortcut.1", "downsample.1": "shortcut.2"}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
# Scalars that openai/CLIP clip/model.py `build_model` drops, and the causal mask, an attribute of each text block that
# a traced archive keeps beside its parameters.
OPENAI_SURPLUS = ("input_resolution", "context_length", "vocab_size")
OPENAI_MASK = "transformer.resblocks.{}.attn_mask"

HF = {
    "logit_scale": "logit_scale",
    "text_model.embeddings.token_embedding.weight": "text_tower.tokens.weight",
    "text_model.embeddings.position_embedding.weight": "text_tower.positions",
    "text_model.final_layer_norm.weight": "text_tower.norm.weight",
    "text_model.final_layer_norm.bias": "text_tower.norm.bias",
    "text_projection.weight": "text_tower.projection.weight",
    "vision_model.embeddings.class_embedding": "image_tower.class_token",
    "vision_model.embeddings.position_embedding.weight": "image_tower.positions",
    "vision_model.embeddings.patch_embedding.weight": "image_tower.patches.weight",
    "vision_model.pre_layrnorm.weight": "image_tower.norm_before.weight",  # sic
    "vision_model.pre_layrnorm.bias": "image_tower.norm_before.bias",
    "vision_model.post_layernorm.weight": "image_tower.norm_after.weight",
    "vision_model.post_layernorm.bias": "image_tower.norm_after.bias",
    "visual_projection.weight": "image_tower.projection.weight",
}
HF_BLOCK = {
    "self_attn.out_proj.weight": "attention.output.weight",
    "self_attn.out_proj.bias": "attention.output.bias",
    "layer_norm1.weight": "norm1.weight",
    "layer_norm1.bias": "norm1.bias",
    "mlp.fc1.weight": "expand.weight",
    "mlp.fc1.bias": "expand.bias",
    "mlp.fc2.weight": "contract.weight",
    "mlp.fc2.bias": "contract.bias",
    "layer_norm2.weight": "norm2.weight",
    "layer_norm2.bias": "norm2.bias",
}
HF_SURPLUS = ("text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


def recognise(names: Collection[str]) -> str | None:
    """Container that stores these names: "openai", "huggingface", or None where they are not CLIP's."""
    if any(name.startswith("visual.") for name in names) and "text_projection" in names:
        return "openai"
    if any(name.startswith("vision_model.") for name in names) and any(
        name.startswith("text_model.") for name in names
    ):
        return "huggingface"
    return None


def load(
    tensors: Mapping[str, Tensor], container: str, hf_config: dict[str, Any] | None
) -> tuple[Clip, ClipConfig, str]:
    """Model of the size given by the shapes or hf_config, with all its weights; its config; the variant's name.

    hf_config may hold the activation only (`models.clip.description`); without it the model is OpenAI's.
    """
    if hf_config is None or "activation" in hf_config:
        config = _config_by_shapes(tensors, container)
        config = with_activation(config, hf_config["activation"]) if hf_config else config
    else:
        config = config_from_hf(hf_config)
    with torch.device("meta"):
        model = Clip(config)
    table, surplus = openai_table(config) if container == "openai" else hf_table(config)
    fill(model, tensors, table, surplus=surplus)
    return model.eval(), config, variant_of(config)


def published_tables(config: ClipConfig) -> dict[str, PublishedTable]:
    """Tables of the containers that a model of this config is published in."""
    if not isinstance(config.image, VisionTransformerConfig):
        return {"openai": PublishedTable(*openai_table(config))}
    tables = {"openai": openai_table(config), "huggingface": hf_table(config)}
    return {name: PublishedTable(*table, config=hf_values(config)) for name, table in tables.items()}


def variant_of(config: ClipConfig) -> str:
    """Published name of a config, or one made of its sizes."""
    for name, known in (CLIP_CONFIGS | GELU_CONFIGS).items():
        if config == known:
            return name
    image = config.image
    if isinstance(image, VisionTransformerConfig):
        return f"ViT-{image.width}x{image.layers}/{image.patch_size}"
    if isinstance(image, EfficientNetTowerConfig):
        return f"EfficientNet-Lite-{sum(image.backbone.repeats)}x{image.backbone.head}"
    return f"RN-{image.backbone.width}x{sum(image.backbone.blocks)}"


def openai_table(config: ClipConfig) -> tuple[dict[str, Source], list[str]]:
    """Sources of our state-dict keys in OpenAI's names, and surplus names to ignore."""
    table = {ours: same(theirs) for theirs, ours in OPENAI.items()}
    table["text_tower.projection.weight"] = transposed("text_projection")
    table |= _openai_blocks("text_tower.transformer", "transformer", config.text.layers)
    if isinstance(config.image, VisionTransformerConfig):
        table |= {ours: same(theirs) for theirs, ours in OPENAI_VIT.items()}
        table["image_tower.projection.weight"] = transposed("visual.proj")
        table |= _openai_blocks("image_tower.transformer", "visual.transformer", config.image.layers)
    else:
        assert isinstance(config.image, ResNetTowerConfig), "published towers are a ViT or a ResNet"
        table |= _openai_resnet(config.image)
    return table, [*OPENAI_SURPLUS, *(OPENAI_MASK.format(layer) for layer in range(config.text.layers))]


def _openai_blocks(ours: str, theirs: str, layers: int) -> dict[str, Source]:
    return {
        f"{ours}.blocks.{layer}.{mine}": same(f"{theirs}.resblocks.{layer}.{stored}")
        for layer in range(layers)
        for stored, mine in OPENAI_BLOCK.items()
    }


def _openai_resnet(config: ResNetTowerConfig) -> dict[str, Source]:
    table = {ours: same(theirs) for theirs, ours in OPENAI_POOL.items()}
    table |= _convolutions("image_tower.backbone.stem", "visual", OPENAI_STEM)
    for stage, count in enumerate(config.backbone.blocks):
        for block in range(count):
            names = OPENAI_BOTTLENECK | (OPENAI_SHORTCUT if block == 0 else {})
            table |= _convolutions(
                f"image_tower.backbone.stages.{stage}.{block}", f"visual.layer{stage + 1}.{block}", names
            )
    return table


def _convolutions(ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, Source]:
    table: dict[str, Source] = {}
    for stored, mine in names.items():
        is_convolution = "conv" in stored or stored.endswith(".0")
        for part in ("weight",) if is_convolution else BATCH_NORM:
            table[f"{ours}.{mine}.{part}"] = same(f"{theirs}.{stored}.{part}")
    return table


def hf_table(config: ClipConfig) -> tuple[dict[str, Source], list[str]]:
    """Sources of our state-dict keys in transformers' names, and surplus names to ignore."""
    if not isinstance(config.image, VisionTransformerConfig):
        raise UnknownCheckpoint("Hugging Face's CLIP has vision transformers only")
    table = {ours: same(theirs) for theirs, ours in HF.items()}
    table |= _hf_blocks("text_tower.transformer", "text_model.encoder", config.text.layers)
    table |= _hf_blocks("image_tower.transformer", "vision_model.encoder", config.image.layers)
    return table, list(HF_SURPLUS)


def _hf_blocks(ours: str, theirs: str, layers: int) -> dict[str, Source]:
    table: dict[str, Source] = {}
    for layer in range(layers):
        mine, stored = f"{ours}.blocks.{layer}", f"{theirs}.layers.{layer}"
        table |= {f"{mine}.{target}": same(f"{stored}.{name}") for name, target in HF_BLOCK.items()}
        for part in ("weight", "bias"):
            names = (f"{stored}.self_attn.{role}_proj.{part}" for role in "qkv")
            table[f"{mine}.attention.qkv.{part}"] = stacked(*names)
    return table


def _config_by_shapes(tensors: Mapping[str, Tensor], container: str) -> ClipConfig:
    """Published config with this checkpoint's `telling_shapes`; the key tables check the number of layers."""
    shapes = {}
    is_resnet = any(name.startswith(("visual.layer1.", "visual.attnpool.")) for name in tensors)
    for name, known in CLIP_CONFIGS.items():
        if isinstance(known.image, ResNetTowerConfig) == is_resnet:
            shapes[name] = telling_shapes(known, container)
    keys = next(iter(shapes.values()))
    if missing := sorted(key for key in keys if key not in tensors):
        raise WeightsDoNotFit(missing=missing)
    stored = {key: tuple(tensors[key].shape) for key in keys}
    for name, expected in shapes.items():
        if stored == expected:
            return CLIP_CONFIGS[name]
    raise UnknownCheckpoint(
        f"no CLIP of a known size has the shapes {stored}; known sizes are {', '.join(CLIP_CONFIGS)}"
    )


def telling_shapes(config: ClipConfig, container: str) -> dict[str, tuple[int, ...]]:
    """Stored names and shapes by which the published sizes differ."""
    text, image, size = config.text, config.image, config.embed_dim
    if isinstance(image, ResNetTowerConfig):
        width = image.backbone.channels[-1]
        return {
            "token_embedding.weight": (text.vocab_size, text.width),
            "visual.attnpool.positional_embedding": ((image.image_size // 32) ** 2 + 1, width),
            "visual.attnpool.c_proj.weight": (size, width),
        }
    assert isinstance(image, VisionTransformerConfig), "published towers are a ViT or a ResNet"
    cells = (image.image_size // image.patch_size) ** 2
    patches, positions = (image.width, 3, image.patch_size, image.patch_size), (cells + 1, image.width)
    if container == "openai":
        return {
            "token_embedding.weight": (text.vocab_size, text.width),
            "visual.conv1.weight": patches,
            "visual.positional_embedding": positions,
            "visual.proj": (image.width, size),
        }
    return {
        "text_model.embeddings.token_embedding.weight": (text.vocab_size, text.width),
        "vision_model.embeddings.patch_embedding.weight": patches,
        "vision_model.embeddings.position_embedding.weight": positions,
        "visual_projection.weight": (size, image.width),
    }
