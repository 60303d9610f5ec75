"""Tensors of a model under the names of a published container: the inverse of its table."""

import torch
from torch import Tensor, nn

from models.tensor_sources import PublishedTable


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
