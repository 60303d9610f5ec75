"""Maps a published state dict to a model's own by a literal table, completely or not at all."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models import WeightsDoNotFit
from models.layers.efficientnet import EfficientNetConfig
from models.layers.resnet import ResNetConfig
from models.layers.swin import SwinConfig


@dataclass(frozen=True)
class Source:
    """Source of one of our tensors.

    parts: stored tensors to build it from, each a tuple of names under which one shared tensor may be stored: at least
    one must be present, and all present ones must be equal.
    """

    parts: tuple[tuple[str, ...], ...]
    build: Callable[[list[Tensor]], Tensor]


def same(*aliases: str) -> Source:
    """The stored tensor unchanged, under any of these names."""
    return Source((aliases,), lambda parts: parts[0])


def transposed(*aliases: str) -> Source:
    """The stored matrix, transposed."""
    return Source((aliases,), lambda parts: parts[0].T)


def stacked(*names: str) -> Source:
    """Several stored tensors concatenated by rows (query, key and value projections)."""
    return Source(tuple((name,) for name in names), lambda parts: torch.cat(parts, dim=0))


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
    known = {alias for source in table.values() for part in source.parts for alias in part}
    missing = [
        part[0] for source in table.values() for part in source.parts if not any(alias in tensors for alias in part)
    ]
    left_over = [name for name in tensors if name not in known and name not in surplus]
    if missing or left_over:
        raise WeightsDoNotFit(missing=missing, left_over=left_over)
    built, faults = {}, []
    for key, source in table.items():
        try:
            value = source.build([_one_of(part, tensors) for part in source.parts])
        except (RuntimeError, IndexError, ValueError) as error:
            faults.append(f"{' + '.join(part[0] for part in source.parts)}: {error}")
            continue
        if value.shape != own[key].shape:
            faults.append(f"{_stored_shapes(source, tensors)}, the model's tensor is {list(own[key].shape)}")
        elif value.is_floating_point() != own[key].is_floating_point():
            faults.append(f"{source.parts[0][0]} is {value.dtype}, the model's tensor is {own[key].dtype}")
        built[key] = value.to(own[key].dtype).contiguous()
    if faults:
        raise WeightsDoNotFit(wrong=faults)
    model.load_state_dict(built, strict=True, assign=True)


def _one_of(aliases: tuple[str, ...], tensors: Mapping[str, Tensor]) -> Tensor:
    present = [alias for alias in aliases if alias in tensors]
    first = tensors[present[0]]
    for other in present[1:]:
        if not torch.equal(first, tensors[other]):
            raise ValueError(f"differs from {other}, though the model shares the two")
    return first


def _stored_shapes(source: Source, tensors: Mapping[str, Tensor]) -> str:
    names = [next(alias for alias in part if alias in tensors) for part in source.parts]
    return " + ".join(f"{name} {list(tensors[name].shape)}" for name in names)
