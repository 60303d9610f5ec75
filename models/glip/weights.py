"""Published GLIP weights: recognition of the size, and the source of each of our tensors.

The container is "microsoft", a .pth of {"model": state dict}; its keys are in state_dict_keys_microsoft.py.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from models import UnknownCheckpoint, WeightsDoNotFit
from models.glip import state_dict_keys_microsoft as keys
from models.glip.config import GLIP_CONFIGS, GlipConfig
from models.glip.model import Glip
from models.layers.swin import PATCH
from models.state_dict_map import TableEntry, fill, module_entries, swin_blocks, tensor_entries
from models.tensor_sources import PublishedTable, Source, stacked


def recognise(names: Collection[str]) -> str | None:
    """Container that stores these names: "microsoft", or None where they are not GLIP's.

    One marker may be missing: `load` then names the missing keys.
    """
    present = sum(marker in names for marker in keys.MARKERS)
    return "microsoft" if present >= len(keys.MARKERS) - 1 else None


def load(
    tensors: Mapping[str, Tensor], container: str, hf_config: dict[str, Any] | None
) -> tuple[Glip, GlipConfig, str]:
    """Model of the size given by the shapes, with all its weights; its config; the variant's name."""
    variant = _variant(tensors)
    config = GLIP_CONFIGS[variant]
    with torch.device("meta"):
        model = Glip(config)
    fill(model, tensors, microsoft_table(config), surplus=keys.SURPLUS)
    return model.eval(), config, variant


def published_tables(config: GlipConfig) -> dict[str, PublishedTable]:
    """Tables of the containers that a model of this config is published in."""
    return {"microsoft": PublishedTable(microsoft_table(config), keys.SURPLUS)}


def microsoft_table(config: GlipConfig) -> dict[str, Source]:
    """Sources of our state-dict keys in Microsoft's names."""
    once: list[tuple[int, ...]] = [()]
    blocks = swin_blocks(config.backbone)
    merges = sorted({(stage,) for stage, _ in blocks})[:-1]
    bert = [(layer,) for layer in range(config.text.layers)]
    entries: list[Iterator[TableEntry]] = [
        tensor_entries(keys.PARAMETERS, once),
        tensor_entries(keys.SWIN_BLOCK_PARAMETERS, blocks),
        tensor_entries(keys.SWIN_MERGE_PARAMETERS, merges),
        module_entries(keys.MODULES, once),
        module_entries(keys.BERT_LAYER, bert),
        module_entries(keys.SWIN_BLOCK, blocks),
        *_tower(config),
    ]
    return {
        **{key: source for part in entries for key, source in part},
        "box_head.scales": stacked(*keys.SCALES),
        "cell_anchors": stacked(*keys.CELL_ANCHORS),
    }


def _tower(config: GlipConfig) -> Iterator[Iterator[TableEntry]]:
    """Entries of each tower layer: fusion, text layer and convolution, or the convolution only."""
    step = 3 if config.fused else 1
    for layer in range(config.tower_layers):
        if config.fused:
            yield tensor_entries(keys.FUSION_PARAMETERS, [(layer,)], theirs=[(step * layer,)])
            yield module_entries(keys.FUSION, [(layer,)], theirs=[(step * layer,)])
            yield module_entries(keys.TEXT_LAYER, [(layer,)], theirs=[(step * layer + 1,)])
        yield module_entries(keys.CONV, [(layer,)], theirs=[(step * layer + step - 1,)])


def _variant(tensors: Mapping[str, Tensor]) -> str:
    if keys.PATCHES not in tensors:
        raise WeightsDoNotFit(missing=[keys.PATCHES])
    fused = keys.FUSION_MARKER in tensors
    sizes = {
        (config.backbone.channels[0], 3, PATCH, PATCH): name
        for name, config in GLIP_CONFIGS.items()
        if config.fused == fused
    }
    shape = tuple(tensors[keys.PATCHES].shape)
    if shape not in sizes:
        known = ", ".join(f"{size} ({name})" for size, name in sizes.items())
        raise UnknownCheckpoint(
            f"{keys.PATCHES} is {list(shape)}; known {'with' if fused else 'without'} fusion: {known}"
        )
    return sizes[shape]
