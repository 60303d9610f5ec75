"""Published Grounding DINO weights: recognition of the size, and the source of each of our tensors.

The containers are "idea" (IDEA-Research's .pth; state_dict_keys_idea.py) and "huggingface" (state_dict_keys_hf.py);
MM-Grounding-DINO and LLMDet are in the latter only, and are told apart by the bias of their logits.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from models import UnknownCheckpoint, WeightsDoNotFit
from models.grounding_dino import state_dict_keys_hf as hf_keys
from models.grounding_dino import state_dict_keys_idea as idea_keys
from models.grounding_dino.config import GROUNDING_DINO_CONFIGS, GroundingDinoConfig
from models.grounding_dino.model import GroundingDino
from models.layers.configs import SwinConfig
from models.layers.swin import PATCH, relative_position_index
from models.state_dict_map import TableEntry, fill, module_entries, swin_blocks, tensor_entries
from models.tensor_sources import PublishedTable, Source, same, shared, stacked, third

KEYS = {"idea": idea_keys, "huggingface": hf_keys}
_OWN_HEAD = tuple(f"{prefix}.0.weight" for prefix in hf_keys.BOX_HEAD)

# Values that this model implements; a Hugging Face config with another value describes a different model.
HF_FIXED = {
    "model_type": "grounding-dino",
    "two_stage": True,
    "embedding_init_target": True,
    "decoder_bbox_embed_share": True,
    "two_stage_bbox_embed_share": False,
    "query_dim": 4,
    "activation_function": "relu",
    "position_embedding_type": "sine",
    "positional_embedding_temperature": 20,
    "layer_norm_eps": 1e-5,
}
# Entries that MM-Grounding-DINO has otherwise, or not at all: its tensors tell whether layers share a head.
MM_FIXED = {"model_type": "mm-grounding-dino"} | {
    name: value for name, value in HF_FIXED.items() if name != "model_type" and not name.endswith("_embed_share")
}


def recognise(names: Collection[str]) -> str | None:
    """Container that stores these names: "idea", "huggingface", or None where they are not Grounding DINO's.

    One marker may be missing: `load` then names the missing keys.
    """
    for container, module in KEYS.items():
        if sum(marker in names for marker in module.MARKERS) >= len(module.MARKERS) - 1:
            return container
    return None


def load(
    tensors: Mapping[str, Tensor], container: str, hf_config: dict[str, Any] | None
) -> tuple[GroundingDino, GroundingDinoConfig, str]:
    """Model of the size given by the shapes, with all its weights; its config; the variant's name."""
    variant = _variant(tensors, KEYS[container].PATCHES)
    config = GROUNDING_DINO_CONFIGS[variant]
    if container == "huggingface" and hf_config is not None:
        _check_hf_config(hf_config, _fixed(config))
    if config.own_box_heads and not any(name.format(1) in tensors for name in _OWN_HEAD):
        config = replace(config, own_box_heads=False)
    with torch.device("meta"):
        model = GroundingDino(config)
    table = published_tables(config)[container]
    fill(model, _with_window_positions(tensors, table, config), table.sources, surplus=table.surplus)
    return model.eval(), config, variant


def _with_window_positions(
    tensors: Mapping[str, Tensor], table: PublishedTable, config: GroundingDinoConfig
) -> dict[str, Tensor]:
    """The tensors with the positions in Swin's windows, constants that transformers 5 no longer stores."""
    assert isinstance(config.backbone, SwinConfig), "published checkpoints have a Swin"
    positions = relative_position_index(config.backbone.window)
    names = [source.parts[0][0] for key, source in table.sources.items() if key.endswith(".relative_position_index")]
    return {name: positions for name in names} | dict(tensors)


def published_tables(config: GroundingDinoConfig) -> dict[str, PublishedTable]:
    """Tables of the containers that a model of this config is published in."""
    fixed = {name: (value, None) for name, value in _fixed(config).items()}
    # Only the last layer's logits are those of the model.
    biases = [name.format(layer) for name in hf_keys.LOGIT_BIAS for layer in range(config.decoder_layers - 1)]
    surplus = (*hf_keys.SURPLUS, *(biases if config.logit_bias_init is not None else ()))
    tables = {"idea": PublishedTable(idea_table(config), idea_keys.SURPLUS)} if config.logit_bias_init is None else {}
    return tables | {"huggingface": PublishedTable(hf_table(config), surplus, fixed)}


def idea_table(config: GroundingDinoConfig) -> dict[str, Source]:
    """Sources of our state-dict keys in IDEA-Research's names."""
    table = dict(_shared_entries(config, "idea"))
    for theirs, ours in idea_keys.PACKED_ATTENTION.items():
        count = config.encoder_layers if ours.startswith("encoder") else config.decoder_layers
        for layer in range(count):
            table |= _packed_attention(theirs.format(layer), ours.format(layer))
    for ours, aliases in _box_head_names(config, idea_keys.BOX_HEAD):
        table[ours] = shared(*aliases)
    return table


def hf_table(config: GroundingDinoConfig) -> dict[str, Source]:
    """Sources of our state-dict keys in Hugging Face's names."""
    table = dict(_shared_entries(config, "huggingface"))
    for theirs, ours in hf_keys.SPLIT_QKV.items():
        for block in swin_blocks(config.backbone):
            for kind in ("weight", "bias"):
                parts = [f"{theirs.format(*block)}.{name}.{kind}" for name in ("query", "key", "value")]
                table[f"{ours.format(*block)}.{kind}"] = stacked(*parts)
    for ours, aliases in _box_head_names(config, hf_keys.BOX_HEAD):
        table[ours] = same(*aliases)
    if config.logit_bias_init is not None:
        table["selection.token_logits.bias"] = same(hf_keys.SELECTION_BIAS)
        table["token_logits.bias"] = same(*(name.format(config.decoder_layers - 1) for name in hf_keys.LOGIT_BIAS))
    return table


def _shared_entries(config: GroundingDinoConfig, container: str) -> Iterator[TableEntry]:
    """Entries that both containers store as this model does, under keys of their own."""
    keys = KEYS[container]
    once: list[tuple[int, ...]] = [()]
    bert, encoder, decoder = (
        [(i,) for i in range(n)] for n in (config.text.layers, config.encoder_layers, config.decoder_layers)
    )
    blocks = swin_blocks(config.backbone)
    merges = sorted({(stage,) for stage, _ in blocks})[:-1]
    for parameters, numbers in (
        (keys.PARAMETERS, once),
        (keys.SWIN_BLOCK_PARAMETERS, blocks),
        (keys.SWIN_MERGE_PARAMETERS, merges),
        (keys.ENCODER_LAYER_PARAMETERS, encoder),
    ):
        yield from tensor_entries(parameters, numbers)
    stages, laterals = [(stage,) for stage in config.stages], [(i,) for i in range(len(config.stages))]
    extras = [(i,) for i in range(config.levels - len(config.stages))]
    yield from module_entries(keys.STAGE, stages, theirs=[(stage + keys.FIRST_STAGE,) for stage in config.stages])
    yield from module_entries(keys.LATERAL_LEVEL, laterals)
    yield from module_entries(keys.EXTRA_LEVEL, extras, theirs=[(i + len(laterals),) for (i,) in extras])
    for table, numbers in (
        (keys.MODULES, once),
        (keys.BERT_LAYER, bert),
        (keys.SWIN_BLOCK, blocks),
        (keys.ENCODER_LAYER, encoder),
        (keys.DECODER_LAYER, decoder),
    ):
        yield from module_entries(table, numbers)


def _packed_attention(theirs: str, ours: str) -> dict[str, Source]:
    return {
        f"{ours}.{name}_proj.{kind}": third(f"{theirs}.in_proj_{kind}", index)
        for index, name in enumerate("qkv")
        for kind in ("weight", "bias")
    }


def _box_head_names(config: GroundingDinoConfig, prefixes: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Each key of our box heads with every name its tensor is stored under."""
    numbers = range(config.decoder_layers)
    heads = {f"box_heads.{i}": [i] for i in numbers} if config.own_box_heads else {"box_head": [*numbers]}
    for head, layers in heads.items():
        for layer in range(3):
            for kind in ("weight", "bias"):
                aliases = [f"{prefix.format(i)}.{layer}.{kind}" for prefix in prefixes for i in layers]
                yield f"{head}.layers.{layer}.{kind}", aliases


def _variant(tensors: Mapping[str, Tensor], patches: str) -> str:
    if patches not in tensors:
        raise WeightsDoNotFit(missing=[patches])
    biased = hf_keys.SELECTION_BIAS in tensors
    sizes = {
        (config.backbone.channels[0], 3, PATCH, PATCH): name
        for name, config in GROUNDING_DINO_CONFIGS.items()
        if (config.logit_bias_init is not None) == biased
    }
    shape = tuple(tensors[patches].shape)
    if shape not in sizes:
        raise UnknownCheckpoint(
            f"{patches} is {list(shape)}; known are {', '.join(f'{k} ({v})' for k, v in sizes.items())}"
        )
    return sizes[shape]


def _fixed(config: GroundingDinoConfig) -> dict[str, Any]:
    return HF_FIXED if config.logit_bias_init is None else MM_FIXED


def _check_hf_config(hf_config: Mapping[str, Any], accepted: Mapping[str, Any]) -> None:
    for name, fixed in accepted.items():
        if hf_config.get(name, fixed) != fixed:
            raise UnknownCheckpoint(f"config.json says {name} {hf_config[name]!r}; this model has {fixed!r}")
