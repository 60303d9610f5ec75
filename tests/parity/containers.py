"""Writes state dicts into the containers that their publishers use."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

SWIN = {
    "tiny": {"embed_dim": 96, "depths": [2, 2, 6, 2], "num_heads": [3, 6, 12, 24], "window_size": 7},
    "base": {"embed_dim": 128, "depths": [2, 2, 18, 2], "num_heads": [4, 8, 16, 32], "window_size": 12},
}


def write_openai_archive(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A TorchScript archive, with the causal mask that each text block of a traced model keeps as a plain attribute."""
    root = nn.Module()
    for name, value in tensors.items():
        *folders, leaf = name.split(".")
        module = root
        for folder in folders:
            if folder not in module._modules:
                module.add_module(folder, nn.Module())
            module = module.get_submodule(folder)
        if value.is_floating_point():
            module.register_parameter(leaf, nn.Parameter(value, requires_grad=False))
        else:
            module.register_buffer(leaf, value)
    length = tensors["positional_embedding"].shape[0]
    for block in root.get_submodule("transformer.resblocks").children():
        block.attn_mask = torch.full((length, length), float("-inf")).triu(1)
    torch.jit.script(root).save(str(path))
    return path


def write_state_dict(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """A plain `torch.save` of the tensors."""
    torch.save(dict(tensors), path)
    return path


def write_data_parallel(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """IDEA-Research's and Microsoft's container: the tensors under "model", names with data-parallel's "module."."""
    torch.save({"model": {f"module.{name}": value for name, value in tensors.items()}}, path)
    return path


def write_huggingface(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> Path:
    """A folder of model.safetensors, in which a shared tensor is stored once, and config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(stored_once(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_open_clip(folder: Path, tensors: Mapping[str, Tensor], model_cfg: Mapping[str, Any]) -> Path:
    """A folder of open_clip's: OpenAI's names, and a configuration beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}), encoding="utf-8")
    return folder


def stored_once(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`tensors` without the repeated members of alias groups: equal random values under names that end alike."""
    kept: dict[str, Tensor] = {}
    seen: dict[tuple[object, ...], list[Tensor]] = {}
    for name, value in tensors.items():
        if value.is_floating_point() and value.numel() > 1 and value.min() < value.max():
            group = seen.setdefault((value.shape, *name.split(".")[-3:]), [])
            if any(torch.equal(value, other) for other in group):
                continue
            group.append(value)
        kept[name] = value
    return kept


def clip_hf_config(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config.json of a CLIP with heads of 64, read from its shapes."""
    patches = tensors["vision_model.embeddings.patch_embedding.weight"].shape
    cells = tensors["vision_model.embeddings.position_embedding.weight"].shape[0] - 1
    words = tensors["text_model.embeddings.token_embedding.weight"].shape
    return {
        "model_type": "clip",
        "projection_dim": tensors["text_projection.weight"].shape[0],
        "vision_config": {
            **_tower(patches[0], tensors, "vision_model"),
            "patch_size": patches[2],
            "image_size": round(cells**0.5) * patches[2],
        },
        "text_config": {**_tower(words[1], tensors, "text_model"), "vocab_size": words[0], "eos_token_id": 2},
    }


def _tower(width: int, tensors: Mapping[str, Tensor], name: str) -> dict[str, Any]:
    layers = {key.split(".")[3] for key in tensors if key.startswith(f"{name}.encoder.layers.")}
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_attention_heads": width // 64,
        "num_hidden_layers": len(layers),
        "hidden_act": "quick_gelu",
    }


def grounding_dino_hf_config(variant: str) -> dict[str, Any]:
    """The telling part of the config.json of "tiny" or "base"."""
    return {"model_type": "grounding-dino", "backbone_config": {"model_type": "swin", **SWIN[variant]}}
