"""Loads a checkpoint of any family from any of its published containers, completely or not at all.

A family is a package whose `weights.py` offers, and `FAMILIES` below lists it:

    FAMILY: str                       "clip", "grounding_dino", ...
    LICENCES: dict[str, str]          container -> licence of the published weights
    VOCABULARY: str                   "clip_bpe" or "bert_wordpiece": the tokenizer for checkpoints that bring none
    recognise(names) -> str | None    the container ("openai", "huggingface", "idea", "microsoft") whose tensor names
                                      these are, by a few that no other family has; None where not this family's
    load(tensors, container, hf_config) -> (model, config, variant)
                                      tensors: dict name -> Tensor as stored (any dtype); hf_config: the config.json
                                      beside them, or None. Picks the size from shapes (or hf_config), raises a
                                      CheckpointError where nothing fits, and fills the model by `models.state_dict_map`
    build(config) -> model            a fresh model of a config read back from an "openset" folder
    CONFIG: type                      the family's config dataclass (`models.config_io` turns it to JSON and back)
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from models import checkpoints, tokenizers
from models import config_io as configuration
from models.checkpoints import StoredWeights, UnknownCheckpoint, UnreadableCheckpoint, WeightsDoNotFit
from models.clip import weights as clip_weights
from models.glip import weights as glip_weights
from models.grounding_dino import weights as grounding_dino_weights
from models.state_dict_map import fill, same

FAMILIES: dict[str, ModuleType] = {
    module.FAMILY: module for module in (clip_weights, grounding_dino_weights, glip_weights)
}


@dataclass(frozen=True)
class LoadedCheckpoint:
    """A model with all its weights (eval mode, float32, CPU), and where they came from.

    serving: what the checkpoint says of preprocessing, text and thresholds; empty where its family's own rules hold.
    """

    family: str
    variant: str
    container: str
    model: nn.Module
    config: Any
    licence: str
    source: str
    weights_sha256: str
    tokenizer_file: Path
    serving: Mapping[str, Any] = field(default_factory=dict)


def load(path: str | Path) -> LoadedCheckpoint:
    """The checkpoint in `path`, a file or a folder (Hugging Face's or our own): completely, or a CheckpointError."""
    stored = checkpoints.read(path)
    try:
        return _load_openset(Path(path), stored) if stored.is_openset else _load_published(Path(path), stored)
    except WeightsDoNotFit as error:
        raise WeightsDoNotFit(
            missing=error.missing, left_over=error.left_over, wrong=error.wrong, path=str(path)
        ) from None
    except UnknownCheckpoint as error:
        raise UnknownCheckpoint(f"{path}: {error}") from None


def _load_published(path: Path, stored: StoredWeights) -> LoadedCheckpoint:
    for family, weights in FAMILIES.items():
        container = weights.recognise(stored.tensors.keys())
        if container is None:
            continue
        model, config, variant = weights.load(stored.tensors, container, stored.config)
        return LoadedCheckpoint(
            family=family,
            variant=variant,
            container=container,
            model=model.eval(),
            config=config,
            licence=weights.LICENCES[container],
            source=path.name,
            weights_sha256=stored.sha256(),
            tokenizer_file=stored.tokenizer_file or tokenizers.standard_file(weights.VOCABULARY),
        )
    names = ", ".join(list(stored.tensors)[:5])
    raise UnknownCheckpoint(f"its tensors ({names}, ...) are of no known family; known are {', '.join(FAMILIES)}")


def _load_openset(path: Path, stored: StoredWeights) -> LoadedCheckpoint:
    header = stored.config or {}
    weights = FAMILIES.get(str(header.get("family")))
    if weights is None:
        raise UnknownCheckpoint(f"its family is {header.get('family')!r}; known are {', '.join(FAMILIES)}")
    if stored.tokenizer_file is None:
        raise UnreadableCheckpoint(f"{path} has no {checkpoints.TOKENIZER_FILE}")
    try:
        config = configuration.from_json(weights.CONFIG, header.get("config"))
        with torch.device("meta"):
            model = weights.build(config)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UnknownCheckpoint(f"no model can be built from its config: {error}") from error
    fill(model, stored.tensors, {key: same(key) for key in model.state_dict()})
    return LoadedCheckpoint(
        family=weights.FAMILY,
        variant=str(header.get("variant", "custom")),
        container=checkpoints.OPENSET_FORMAT,
        model=model.eval(),
        config=config,
        licence=str(header.get("licence", "unknown")),
        source=str(header.get("source", path.name)),
        weights_sha256=stored.sha256(),
        tokenizer_file=stored.tokenizer_file,
        serving=header.get("serving", {}),
    )


def save(
    path: str | Path,
    model: nn.Module,
    config: Any,
    *,
    tokenizer_file: str | Path,
    name: str,
    licence: str = "Apache-2.0",
    source: str = "trained with openset train",
    serving: Mapping[str, Any] | None = None,
) -> Path:
    """Write an "openset" checkpoint folder that `load` reads back: float32 weights, config and tokenizer.

    `name` becomes the variant. `serving` holds the sections of a bundle's manifest (preprocessing, text,
    classification, detection, buckets) in which this model differs from its family. The folder is created; its files
    are replaced.
    """
    family = next((weights.FAMILY for weights in FAMILIES.values() if isinstance(config, weights.CONFIG)), None)
    if family is None:
        raise ValueError(f"config is a {type(config).__name__}; a config of {', '.join(FAMILIES)} is expected")
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    header = {
        "format": checkpoints.OPENSET_FORMAT,
        "family": family,
        "variant": name,
        "licence": licence,
        "source": source,
        "serving": dict(serving or {}),
    }
    text = json.dumps({**header, "config": configuration.to_json(config)}, indent=1) + "\n"
    stored = {key: value.detach().cpu() for key, value in model.state_dict().items()}
    save_file(
        {key: (value.float() if value.is_floating_point() else value).contiguous() for key, value in stored.items()},
        folder / checkpoints.WEIGHTS_FILE,
    )
    (folder / checkpoints.CONFIG_FILE).write_text(text, encoding="utf-8")
    target = folder / checkpoints.TOKENIZER_FILE
    if not (target.exists() and target.samefile(tokenizer_file)):
        shutil.copyfile(tokenizer_file, target)
    return folder
