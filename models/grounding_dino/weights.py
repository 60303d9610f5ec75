"""Published Grounding DINO weights: which size a checkpoint is, and where each of our tensors comes from.

The containers are "idea" (IDEA-Research .pth, names_idea.py) and "huggingface" (names_hf.py).
"""

from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from models.checkpoint_errors import UnknownCheckpoint, WeightsDoNotFit
from models.grounding_dino import state_dict_keys_hf as names_hf
from models.grounding_dino import state_dict_keys_idea as names_idea
from models.grounding_dino.config import GROUNDING_DINO_CONFIGS, GroundingDinoConfig
from models.grounding_dino.model import GroundingDino
from models.layers.swin import PATCH
from models.state_dict_map import Entry, Source, fill, modules, numbered, same, stacked, swin_blocks

FAMILY = "grounding_dino"
CONFIG = GroundingDinoConfig
VOCABULARY = "bert_wordpiece"
LICENCES = {"idea": "Apache-2.0", "huggingface": "Apache-2.0"}

NAMES = {"idea": names_idea, "huggingface": names_hf}
# What the model fixes. A Hugging Face config that says otherwise is another model's, though its shapes may be the same.
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


def recognise(names: Collection[str]) -> str | None:
    """The container whose names these are: "idea", "huggingface", or None where they are not Grounding DINO's.

    One marker may be missing: what else is, `load` says by name.
    """
    for container, module in NAMES.items():
        if sum(marker in names for marker in module.MARKERS) >= len(module.MARKERS) - 1:
            return container
    return None


def load(
    tensors: Mapping[str, Tensor], container: str, hf_config: dict[str, Any] | None
) -> tuple[GroundingDino, GroundingDinoConfig, str]:
    """The model whose size the shapes tell, completely filled, its config and its variant's name."""
    if container == "huggingface" and hf_config is not None:
        _check_hf_config(hf_config)
    variant = _variant(tensors, NAMES[container].PATCHES)
    config = GROUNDING_DINO_CONFIGS[variant]
    with torch.device("meta"):
        model = build(config)
    table = idea_table(config) if container == "idea" else hf_table(config)
    fill(model, tensors, table, surplus=NAMES[container].SURPLUS)
    return model.eval(), config, variant


def build(config: GroundingDinoConfig) -> GroundingDino:
    """A fresh model of this config."""
    return GroundingDino(config)


def idea_table(config: GroundingDinoConfig) -> dict[str, Source]:
    """Our state dict's keys with their sources in IDEA-Research's names."""
    table = dict(_shared_entries(config, "idea"))
    for theirs, ours in names_idea.PACKED_ATTENTION.items():
        count = config.encoder_layers if ours.startswith("encoder") else config.decoder_layers
        for layer in range(count):
            table |= _packed_attention(theirs.format(layer), ours.format(layer))
    for ours, aliases in _box_head_names(config, names_idea.BOX_HEAD):
        table[ours] = Source(tuple((name,) for name in aliases), _all_equal)
    return table


def hf_table(config: GroundingDinoConfig) -> dict[str, Source]:
    """Our state dict's keys with their sources in Hugging Face's names."""
    table = dict(_shared_entries(config, "huggingface"))
    for theirs, ours in names_hf.SPLIT_QKV.items():
        for block in swin_blocks(config.backbone):
            for kind in ("weight", "bias"):
                parts = [f"{theirs.format(*block)}.{name}.{kind}" for name in ("query", "key", "value")]
                table[f"{ours.format(*block)}.{kind}"] = stacked(*parts)
    for ours, aliases in _box_head_names(config, names_hf.BOX_HEAD):
        table[ours] = same(*aliases)
    return table


def _shared_entries(config: GroundingDinoConfig, container: str) -> Iterator[Entry]:
    """What both containers store as this model does, under names of their own."""
    names = NAMES[container]
    once: list[tuple[int, ...]] = [()]
    bert, encoder, decoder = (
        [(i,) for i in range(n)] for n in (config.text.layers, config.encoder_layers, config.decoder_layers)
    )
    blocks = swin_blocks(config.backbone)
    merges = sorted({(stage,) for stage, _ in blocks})[:-1]
    for parameters, numbers in (
        (names.PARAMETERS, once),
        (names.SWIN_BLOCK_PARAMETERS, blocks),
        (names.SWIN_MERGE_PARAMETERS, merges),
        (names.ENCODER_LAYER_PARAMETERS, encoder),
    ):
        yield from numbered(parameters, numbers)
    for table, numbers in (
        (names.MODULES, once),
        (names.BERT_LAYER, bert),
        (names.SWIN_BLOCK, blocks),
        (names.ENCODER_LAYER, encoder),
        (names.DECODER_LAYER, decoder),
    ):
        yield from modules(table, numbers)


def _packed_attention(theirs: str, ours: str) -> dict[str, Source]:
    return {
        f"{ours}.{name}_proj.{kind}": Source(((f"{theirs}.in_proj_{kind}",),), partial(_third, index=index))
        for index, name in enumerate("qkv")
        for kind in ("weight", "bias")
    }


def _third(parts: list[Tensor], *, index: int) -> Tensor:
    return parts[0].chunk(3)[index]


def _box_head_names(config: GroundingDinoConfig, prefixes: Collection[str]) -> Iterator[tuple[str, list[str]]]:
    """Each tensor of our box head with every name that it is stored under."""
    for layer in range(3):
        for kind in ("weight", "bias"):
            aliases = [f"{p.format(i)}.{layer}.{kind}" for p in prefixes for i in range(config.decoder_layers)]
            yield f"box_head.layers.{layer}.{kind}", aliases


def _all_equal(parts: list[Tensor]) -> Tensor:
    if not all(torch.equal(part, parts[0]) for part in parts):
        raise ValueError("differs between decoder layers, though the model shares it")
    return parts[0]


def _variant(tensors: Mapping[str, Tensor], patches: str) -> str:
    if patches not in tensors:
        raise WeightsDoNotFit(missing=[patches])
    sizes = {(config.backbone.channels[0], 3, PATCH, PATCH): name for name, config in GROUNDING_DINO_CONFIGS.items()}
    shape = tuple(tensors[patches].shape)
    if shape not in sizes:
        raise UnknownCheckpoint(
            f"{patches} is {list(shape)}; known are {', '.join(f'{k} ({v})' for k, v in sizes.items())}"
        )
    return sizes[shape]


def _check_hf_config(hf_config: Mapping[str, Any]) -> None:
    for name, fixed in HF_FIXED.items():
        if hf_config.get(name, fixed) != fixed:
            raise UnknownCheckpoint(f"config.json says {name} {hf_config[name]!r}; this model has {fixed!r}")
