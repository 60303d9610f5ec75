"""Maps a published state dict to a model's own by a literal table, completely or not at all."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from models import WeightsDoNotFit
from models.layers.efficientnet import EfficientNetConfig
from models.layers.resnet import ResNetConfig
from models.layers.swin import SwinConfig
from models.stored_arrays import BFLOAT16, Array
from models.tensor_sources import ArrayLibrary, Source, built, check_names, same


def _kind(tensor: Tensor) -> str:
    return "f" if tensor.is_floating_point() else "i"


def as_torch(arrays: Mapping[str, Array]) -> dict[str, Tensor]:
    """Tensors of these arrays, of the same type and with memory of their own."""
    return {
        name: torch.from_numpy(array["bfloat16"].copy().view(np.int16)).view(torch.bfloat16)
        if array.dtype == BFLOAT16
        else torch.from_numpy(array.copy())
        for name, array in arrays.items()
    }


TORCH = ArrayLibrary(torch.concatenate, torch.equal, _kind)
TableEntry = tuple[str, Source]
Numbers = Sequence[tuple[int, ...]]


def tensor_entries(names: Mapping[str, str], ours: Numbers, *, theirs: Numbers | None = None) -> Iterator[TableEntry]:
    """Entries of a table of stored names -> our names, "{}" filled with `theirs` (default: as ours) and `ours`."""
    for stored, key in names.items():
        for their_number, our_number in zip(ours if theirs is None else theirs, ours, strict=True):
            yield key.format(*our_number), same(stored.format(*their_number))


def module_entries(names: Mapping[str, str], ours: Numbers, *, theirs: Numbers | None = None) -> Iterator[TableEntry]:
    """`tensor_entries` of the weight and the bias of each named module."""
    for kind in ("weight", "bias"):
        yield from tensor_entries({f"{a}.{kind}": f"{b}.{kind}" for a, b in names.items()}, ours, theirs=theirs)


def swin_blocks(config: SwinConfig | ResNetConfig | EfficientNetConfig) -> list[tuple[int, int]]:
    """(stage, block) of every block of a published checkpoint's Swin backbone."""
    assert isinstance(config, SwinConfig), "published checkpoints have a Swin"
    return [(stage, block) for stage, depth in enumerate(config.depths) for block in range(depth)]


def fill(
    model: nn.Module, tensors: Mapping[str, Tensor], table: Mapping[str, Source], *, surplus: Collection[str] = ()
) -> None:
    """Load `tensors` into `model`, which may be on the meta device, as float32 on the CPU.

    table: source of every key of the model's state dict; surplus: exact names of stored tensors to ignore.
    WeightsDoNotFit names every key that is missing, left over, or of a wrong shape; the model is unchanged then.
    """
    own = model.state_dict()
    assert own.keys() == table.keys(), sorted(own.keys() ^ table.keys())
    check_names(tensors.keys(), table.values(), surplus=surplus)
    filled, faults = {}, []
    for key, source in table.items():
        wanted = own[key]
        try:
            value = built(source, tensors, TORCH, shape=wanted.shape, kind=_kind(wanted))
        except ValueError as error:
            faults.append(str(error))
            continue
        filled[key] = value.to(wanted.dtype).contiguous()
    if faults:
        raise WeightsDoNotFit(wrong=faults)
    model.load_state_dict(filled, strict=True, assign=True)
