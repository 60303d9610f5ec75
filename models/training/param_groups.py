"""Parameter groups of the optimiser: frozen parts, learning rates by part, layer-wise decay of the rate."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import nn

# Prefixes of the stacks whose layers `layer_decay` counts, and the part of a parameter's name that is its layer.
TOWERS = ("image_tower.", "text_tower.", "backbone.", "text_backbone.")
LAYER = re.compile(r"\.(?:blocks|layers|stages|resnet\.stages)\.\d+(?:\.blocks\.\d+)?\.")


def freeze(model: nn.Module, prefixes: Sequence[str]) -> list[nn.Module]:
    """Freeze the parameters whose names have a prefix; returns their modules, to be kept in evaluation mode.

    ValueError names a prefix that no parameter has.
    """
    for prefix in prefixes:
        fitting = [parameter for name, parameter in model.named_parameters() if name.startswith(prefix)]
        if not fitting:
            raise ValueError(f"frozen: no parameter's name begins with {prefix!r}; parts are {parts(model)}")
        for parameter in fitting:
            parameter.requires_grad_(False)
    return [module for name, module in model.named_modules() if name and f"{name}.".startswith(tuple(prefixes or "-"))]


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """List the batch norms; in evaluation mode they keep the statistics that they have, while their weights learn.

    A checkpoint's come from large batches; the few pictures of a small one replace them by noise (He et al. 2017,
    "Mask R-CNN", freeze them, as torchvision's detectors do).
    """
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def param_groups(
    named: Iterable[tuple[str, nn.Parameter]],
    factors: Mapping[str, float],
    *,
    learning_rate: float,
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Group parameters by rate (`factors` of the learning rate, 1 for other names) and by decay.

    Norms, biases and temperatures do not decay.
    """
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in named:
        if parameter.requires_grad:
            found.setdefault((factors.get(name, 1.0), parameter.ndim > 1), []).append(parameter)
    return [
        {"params": parameters, "lr": learning_rate * factor, "weight_decay": weight_decay if decays else 0.0}
        for (factor, decays), parameters in found.items()
    ]


def rate_factors(names: Sequence[str], rates: Mapping[str, float], layer_decay: float) -> dict[str, float]:
    """Compute the factor of each parameter's learning rate.

    rates: factors by prefix of the name, of which the longest counts; a tower's layer learns `layer_decay` times as
    fast as the one above it, its embeddings as one below the lowest. ValueError names a prefix that no parameter has.
    """
    for prefix in rates:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"rates: no parameter's name begins with {prefix!r}")
    depths = _depths(names)
    factors = {}
    for name in names:
        fitting = [prefix for prefix in rates if name.startswith(prefix)]
        factors[name] = rates[max(fitting, key=len)] if fitting else 1.0
        factors[name] *= layer_decay ** depths.get(name, 0)
    return factors


def parts(model: nn.Module) -> list[str]:
    """List the prefixes of parameter names, up to the first dot."""
    return sorted({name.split(".")[0] + "." for name, _ in model.named_parameters()})


def _depths(names: Sequence[str]) -> dict[str, int]:
    """Count the layers of its tower above each parameter: 0 for the top layer and whatever follows it."""
    found: dict[str, int] = {}
    for tower in TOWERS:
        within = [name for name in names if name.startswith(tower)]
        layers: list[str] = []
        below: dict[str, int] = {}
        for name in within:
            match = LAYER.search(name)
            if match and name[: match.end()] not in layers:
                layers.append(name[: match.end()])
            below[name] = len(layers)
        found |= {name: max(0, len(layers) - number) for name, number in below.items()}
    return found
