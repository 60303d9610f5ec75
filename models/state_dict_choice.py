"""Choice of the weights in what a training program saved: `state_dict`, `model`, averaged twins, optimizers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

from models import listed
from models.tensor_records import StoredTensor

# Names that training programs give to the weights, in order of preference. Lightning, open_clip and MMDetection have
# `state_dict`, IDEA-Research and Microsoft `model`.
_WEIGHTS = ("state_dict", "model", "model_state_dict", "model_state", "module", "net", "network", "weights", "params")
# Averaged weights, which are taken where there are no others: which of the two is better nobody can say here.
_AVERAGED = ("model_ema", "ema_model", "ema", "state_dict_ema", "ema_state_dict", "model_ema_state_dict", "params_ema")
_DEPTH = 4
# Entries that averaging (torch.optim.swa_utils) adds to the weights.
_COUNTERS = ("n_averaged",)
_DATA_PARALLEL = "module."  # of every name, where training was


@dataclass(frozen=True)
class ChosenWeights:
    """The weights of a checkpoint by name, and a sentence where averaged or other ones were left alone."""

    tensors: dict[str, StoredTensor]
    sentence: str | None = None


def choose_state_dict(root: Any) -> ChosenWeights:
    """Choose the weights in the data of a checkpoint; UnpicklingError names what is there instead."""
    if not isinstance(root, dict) or not root:
        raise UnpicklingError(
            f"it holds a {_kind(root)}; a state dict, or one under 'state_dict' or 'model', is expected"
        )
    if _tensors_of(root) is not None:
        return ChosenWeights(_named(root))
    found = dict(_state_dicts(root, "", _DEPTH))
    ordered = [path for known in (*_WEIGHTS, *_AVERAGED) for path in found if path.split(".")[-1] == known]
    ordered = [path for path in ordered if not set(path.split(".")[:-1]) & set(_AVERAGED)] or ordered
    if not ordered and len(found) == 1:
        ordered = [*found]
    if not ordered:
        raise UnpicklingError(_refusal(root, found))
    taken = ordered[0]
    others = [path for path in found if path != taken]
    sentence = f"the weights under {taken!r} are taken; left alone: {listed(others)}" if others else None
    return ChosenWeights(_named(found[taken]), sentence)


def _state_dicts(data: Mapping[Any, Any], prefix: str, depth: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, value in data.items():
        if not isinstance(value, dict) or not isinstance(key, str) or key.startswith(("optimizer", "lr_scheduler")):
            continue
        if _tensors_of(value) is not None:
            yield f"{prefix}{key}", value
        elif depth:
            yield from _state_dicts(value, f"{prefix}{key}.", depth - 1)


def _tensors_of(data: Mapping[Any, Any]) -> Mapping[Any, Any] | None:
    """`data` where it is a state dict: names of tensors, at least one, and nothing else."""
    return data if data and all(isinstance(value, StoredTensor) for value in data.values()) else None


def _named(data: Mapping[Any, StoredTensor]) -> dict[str, StoredTensor]:
    tensors = {str(name): value for name, value in data.items() if name not in _COUNTERS}
    if not all(name.startswith(_DATA_PARALLEL) for name in tensors):
        return tensors
    return {name.removeprefix(_DATA_PARALLEL): value for name, value in tensors.items()}


def _refusal(root: Mapping[Any, Any], found: Mapping[str, Any]) -> str:
    if found:
        return f"it holds several state dicts, none under a known name: {listed([*found])}"
    strange = [f"{name} ({_kind(value)})" for name, value in root.items() if not isinstance(value, StoredTensor)]
    return f"it is no state dict; not tensors: {listed(strange)}"


def _kind(value: Any) -> str:
    return str(value.name) if hasattr(value, "name") else type(value).__name__
