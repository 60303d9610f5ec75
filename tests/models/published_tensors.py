"""Checkpoints of a model in every container that its family is published in: the inverse of the containers' tables."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.clip.config import ClipConfig
from models.registry import FAMILIES, LoadedCheckpoint
from models.tensor_sources import PublishedTable
from tests.models.small_clip import open_clip_config
from tests.parity import containers


def published_containers(family: str, config: Any) -> tuple[str, ...]:
    """The containers of a family's model; a CLIP with GELU is open_clip's, and none of OpenAI's."""
    tables = FAMILIES[family].weights.published_tables(config)
    if isinstance(config, ClipConfig) and config.text.activation == "gelu":
        return tuple("open_clip" if name == "openai" else name for name in tables)
    return tuple(tables)


def write_published(loaded: LoadedCheckpoint, container: str, folder: Path) -> Path:
    """Write the model's weights in a container; returns the path to load."""
    tables = FAMILIES[loaded.family].weights.published_tables(loaded.config)
    table = tables["openai" if container == "open_clip" else container]
    tensors = published_tensors(loaded.model, table)
    if container == "openai":
        return containers.write_openai_archive(folder / "weights.pt", tensors)
    if container == "open_clip":
        return containers.write_open_clip(folder / "folder", tensors, open_clip_config(loaded.config))
    if container == "huggingface":
        return containers.write_huggingface(folder / "folder", tensors, config_json(table))
    return containers.write_data_parallel(folder / "weights.pth", tensors)


def published_tensors(model: nn.Module, table: PublishedTable) -> dict[str, Tensor]:
    """The model's tensors as the container names and lays them out; a shared one under all of its names."""
    tensors: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for key, value in model.state_dict().items():
        source = table.sources[key]
        first = source.parts[0][0]
        if source.operation == "third":
            thirds.setdefault(first, {})[source.index] = value
        elif source.operation == "stacked":
            pieces = value.chunk(len(source.parts))
            tensors |= {part[0]: piece.clone() for part, piece in zip(source.parts, pieces, strict=True)}
        else:
            stored = value.T if source.operation == "transposed" else value
            tensors |= {alias: stored.contiguous().clone() for part in source.parts for alias in part}
    return tensors | {name: torch.cat([rows[index] for index in range(3)]) for name, rows in thirds.items()}


def config_json(table: PublishedTable) -> dict[str, object]:
    """A config.json that says what the table's model must have."""
    config: dict[str, object] = {}
    for entry, accepted in table.config.items():
        *sections, leaf = entry.split(".")
        target: dict[str, object] = config
        for section in sections:
            inner = target.setdefault(section, {})
            assert isinstance(inner, dict)
            target = inner
        target[leaf] = accepted[0]
    return config
