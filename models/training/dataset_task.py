"""Base of all tasks on data sets: batches from the loader, summed gradients, held-out batches."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.data.loader import BatchLoader, BatchStream, iterate_batches
from models.training.distributed import ProcessGroup


class _Batch(Protocol):
    def to(self, device: torch.device) -> Self: ...


Batch = TypeVar("Batch", bound=_Batch)


@dataclass(frozen=True)
class TaskData(Generic[Batch]):
    """Streams of batches to train on and to validate with: of `held_out`, the first so many batches.

    pictures: the number of those to train on; None where they have no end, or are not counted.
    """

    training: BatchStream[Any, Batch]
    held_out: BatchStream[Any, Batch] | None = None
    held_out_batches: int = 8
    pictures: int | None = None


class DatasetTask(Generic[Batch]):
    """The parts of a `Task` that are the same for all families; `module` is trained, `model` is kept."""

    def __init__(
        self,
        model: nn.Module,
        module: nn.Module,
        data: TaskData[Batch],
        group: ProcessGroup,
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        self.model, self.module = model, module
        self._data, self._group, self._frozen = data, group, frozen
        self._loader = BatchLoader(data.training)
        # The parameters in use differ between batches: one without objects trains no denoising.
        self._parallel = DistributedDataParallel(module, find_unused_parameters=True) if group.size > 1 else module

    @property
    def pictures(self) -> int | None:
        """Pictures of an epoch; None where they have no end."""
        return self._data.pictures

    def batches(self, count: int) -> list[Batch]:
        """Load the next `count` batches of this process to its device."""
        for module in self._frozen:
            module.eval()  # keeps batch statistics too
        return [self._loader.next().to(self._group.device) for _ in range(count)]

    def synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Sum gradients over processes in the `last` forward and backward pass of a step only."""
        if isinstance(self._parallel, DistributedDataParallel) and not last:
            return self._parallel.no_sync()
        return nullcontext()

    def held_out(self) -> Iterator[Batch]:
        """Load the batches to validate with, always the same."""
        if self._data.held_out is not None:
            for one in islice(iterate_batches(self._data.held_out), self._data.held_out_batches):
                yield one.batch.to(self._group.device)

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Stop the loader, and return the number of pictures left out."""
        self._loader.close()
        return {"pictures_left_out": float(self._loader.skipped)}

    def state(self) -> dict[str, Any]:
        """The state of the loader."""
        return self._loader.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Restore the loader."""
        self._loader.restore(state)
