"""Published GLIP weights: which size a checkpoint is, and where each of our tensors comes from.

The container is "microsoft", a .pth of {"model": state dict}; names in names_microsoft.py.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from models.checkpoint_errors import UnknownCheckpoint, WeightsDoNotFit
from models.glip import state_dict_keys_microsoft as names
from models.glip.config import GLIP_CONFIGS, GlipConfig
from models.glip.model import Glip
from models.layers.swin import PATCH
from models.state_dict_map import Entry, Source, fill, modules, numbered, stacked, swin_blocks

FAMILY = "glip"
CONFIG = GlipConfig
VOCABULARY = "bert_wordpiece"
LICENCES = {"microsoft": "MIT"}


def recognise(stored: Collection[str]) -> str | None:
    """ "microsoft", or None where these names are not GLIP's.

    One marker may be missing: what else is, `load` says by name.
    """
    present = sum(marker in stored for marker in names.MARKERS)
    return "microsoft" if present >= len(names.MARKERS) - 1 else None


def load(
    tensors: Mapping[str, Tensor], container: str, hf_config: dict[str, Any] | None
) -> tuple[Glip, GlipConfig, str]:
    """The model whose size the shapes tell, completely filled, its config and its variant's name."""
    variant = _variant(tensors)
    config = GLIP_CONFIGS[variant]
    with torch.device("meta"):
        model = build(config)
    fill(model, tensors, table(config), surplus=names.SURPLUS)
    return model.eval(), config, variant


def build(config: GlipConfig) -> Glip:
    """A fresh model of this config."""
    return Glip(config)


def table(config: GlipConfig) -> dict[str, Source]:
    """Our state dict's keys with their sources in Microsoft's names."""
    once: list[tuple[int, ...]] = [()]
    blocks = swin_blocks(config.backbone)
    merges = sorted({(stage,) for stage, _ in blocks})[:-1]
    bert = [(layer,) for layer in range(config.text.layers)]
    entries: list[Iterator[Entry]] = [
        numbered(names.PARAMETERS, once),
        numbered(names.SWIN_BLOCK_PARAMETERS, blocks),
        numbered(names.SWIN_MERGE_PARAMETERS, merges),
        modules(names.MODULES, once),
        modules(names.BERT_LAYER, bert),
        modules(names.SWIN_BLOCK, blocks),
        *_tower(config),
    ]
    return {
        **{key: source for part in entries for key, source in part},
        "box_head.scales": stacked(*names.SCALES),
        "cell_anchors": stacked(*names.CELL_ANCHORS),
    }


def _tower(config: GlipConfig) -> Iterator[Iterator[Entry]]:
    """Of each layer the official modules: fusion, text layer and convolution, or the convolution alone."""
    step = 3 if config.fused else 1
    for layer in range(config.tower_layers):
        if config.fused:
            yield numbered(names.FUSION_PARAMETERS, [(layer,)], theirs=[(step * layer,)])
            yield modules(names.FUSION, [(layer,)], theirs=[(step * layer,)])
            yield modules(names.TEXT_LAYER, [(layer,)], theirs=[(step * layer + 1,)])
        yield modules(names.CONV, [(layer,)], theirs=[(step * layer + step - 1,)])


def _variant(tensors: Mapping[str, Tensor]) -> str:
    if names.PATCHES not in tensors:
        raise WeightsDoNotFit(missing=[names.PATCHES])
    fused = names.FUSION_MARKER in tensors
    sizes = {
        (config.backbone.channels[0], 3, PATCH, PATCH): name
        for name, config in GLIP_CONFIGS.items()
        if config.fused == fused
    }
    shape = tuple(tensors[names.PATCHES].shape)
    if shape not in sizes:
        known = ", ".join(f"{size} ({name})" for size, name in sizes.items())
        raise UnknownCheckpoint(
            f"{names.PATCHES} is {list(shape)}; known {'with' if fused else 'without'} fusion: {known}"
        )
    return sizes[shape]
