"""Tiny CLIPs with random weights, and their tensors under the names of the published containers."""

import torch
from torch import Tensor

from models.clip import weights
from models.clip.config import ClipConfig, ResNetTowerConfig, TextConfig, VisionTransformerConfig
from models.clip.model import Clip
from models.layers.resnet import ResNetConfig

TEXT = TextConfig(width=16, layers=2, heads=2, vocab_size=40, context_length=9)
VIT = ClipConfig(12, VisionTransformerConfig(image_size=8, patch_size=4, width=24, layers=2, heads=3), TEXT)
RESNET = ClipConfig(12, ResNetTowerConfig(64, ResNetConfig((1, 2, 1, 1), 4), heads=2), TEXT)
AVERAGED = ClipConfig(12, ResNetTowerConfig(64, ResNetConfig((1, 1, 1, 1), 4), pool="average"), TEXT)


def random_model(config: ClipConfig, seed: int = 0) -> Clip:
    """A model whose every parameter and statistic is random, so that none can be swapped unseen."""
    generator = torch.Generator().manual_seed(seed)
    model = Clip(config).eval()
    for value in model.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) * 0.5 + 0.1)
    return model


def openai_tensors(model: Clip) -> dict[str, Tensor]:
    """The model's tensors as OpenAI names and lays them out."""
    state = model.state_dict()
    table, _ = weights.openai_table(model.config)
    names = {source.parts[0][0]: key for key, source in table.items()}
    flipped = ("text_projection", "visual.proj")
    return {name: (state[key].T if name in flipped else state[key]).clone() for name, key in names.items()}


def hf_tensors(model: Clip) -> dict[str, Tensor]:
    """The model's tensors as transformers names and lays them out."""
    state = model.state_dict()
    tensors = {}
    for key, source in weights.hf_table(model.config)[0].items():
        parts = state[key].chunk(3) if len(source.parts) == 3 else [state[key]]
        for (name,), part in zip(source.parts, parts, strict=True):
            tensors[name] = part.clone()
    return tensors


def hf_config(config: ClipConfig) -> dict[str, object]:
    """The config.json of a small vision transformer CLIP."""
    image, text = config.image, config.text
    assert isinstance(image, VisionTransformerConfig)
    return {
        "model_type": "clip",
        "projection_dim": config.embed_dim,
        "vision_config": {
            "hidden_size": image.width,
            "intermediate_size": 4 * image.width,
            "num_hidden_layers": image.layers,
            "num_attention_heads": image.heads,
            "image_size": image.image_size,
            "patch_size": image.patch_size,
        },
        "text_config": {
            "hidden_size": text.width,
            "intermediate_size": 4 * text.width,
            "num_hidden_layers": text.layers,
            "num_attention_heads": text.heads,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.context_length,
            "eos_token_id": 2,
        },
    }


def open_clip_config(config: ClipConfig) -> dict[str, object]:
    """The model_cfg of an open_clip_config.json."""
    image, text = config.image, config.text
    assert isinstance(image, VisionTransformerConfig)
    return {
        "embed_dim": config.embed_dim,
        "vision_cfg": {
            "image_size": image.image_size,
            "layers": image.layers,
            "width": image.width,
            "patch_size": image.patch_size,
            "head_width": image.width // image.heads,
        },
        "text_cfg": {
            "context_length": text.context_length,
            "vocab_size": text.vocab_size,
            "width": text.width,
            "heads": text.heads,
            "layers": text.layers,
        },
    } | ({"quick_gelu": True} if text.activation == "quick_gelu" else {})
