"""What the tasks on data sets share: batches from a feed, gradients of several batches and processes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, Protocol, Self, TypeVar

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models.data.loader import Batches, Feed, Layout, loader
from models.training.distributed import Processes


class Movable(Protocol):
    """A batch that can be moved to a device."""

    def to(self, device: torch.device) -> Self: ...


Batch = TypeVar("Batch", bound=Movable)


@dataclass(frozen=True)
class Data(Generic[Batch]):
    """The batches to learn from, by the number of the first, and `held_out_batches` of those to validate with."""

    layout: Layout
    training: Callable[[int], Batches[Any, Batch]]
    held_out: Batches[Any, Batch] | None = None
    held_out_batches: int = 8


class SetTask(Generic[Batch]):
    """The parts of a `Task` that are the same for all families; `module` learns, `model` is kept."""

    def __init__(
        self,
        model: nn.Module,
        module: nn.Module,
        data: Data[Batch],
        processes: Processes,
        frozen: Sequence[nn.Module] = (),
    ) -> None:
        self.model, self.module = model, module
        self._data, self._processes, self._frozen = data, processes, frozen
        self._feed = Feed(data.training, data.layout)
        # Which parameters a batch reaches differs: one without objects teaches no denoising.
        self._shared = DistributedDataParallel(module, find_unused_parameters=True) if processes.count > 1 else module

    def batches(self, count: int) -> list[Batch]:
        """The next `count` batches of this process, on its device."""
        for module in self._frozen:
            module.eval()  # batch statistics stay as well
        return [self._feed.next().to(self._processes.device) for _ in range(count)]

    def alone(self, last: bool) -> AbstractContextManager[Any]:
        """Around a forward and backward pass: gradients are added up over processes in the last one only."""
        if isinstance(self._shared, DistributedDataParallel) and not last:
            return self._shared.no_sync()
        return nullcontext()

    def held_out(self) -> Iterator[Batch]:
        """The batches to validate with, always the same."""
        if self._data.held_out is not None:
            fed = loader(self._data.held_out, Layout(self._data.layout.batch, 0))
            for one in islice(fed, self._data.held_out_batches):
                yield one.batch.to(self._processes.device)

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Let the readers go; how many pictures were left out."""
        self._feed.close()
        return {"pictures_left_out": float(self._feed.skipped)}

    def is_slow(self, name: str) -> bool:
        """A recipe on data sets says by `rates` what learns more slowly."""
        return False

    def state(self) -> dict[str, Any]:
        """How far the data are read."""
        return self._feed.state()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on behind it."""
        self._feed.restore(state)


def added(figures: dict[str, float], more: dict[str, float]) -> dict[str, float]:
    """Figures added up by name."""
    return {name: figures.get(name, 0.0) + more.get(name, 0.0) for name in figures | more}
