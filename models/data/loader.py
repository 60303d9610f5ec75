"""Batches of a mixture of sets, read by several workers.

What is in a batch follows from the seed, the batch's number and the layout (`Layout`) alone, so a run is resumed by the
number of batches it has had, and nothing of a worker has to be saved.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from models.data.datasets import WeightedSet
from models.data.images import DataError
from models.data.mixture import Mixture, Shuffled
from models.data.records import Record
from models.data.shards import ShardStream

LOG = logging.getLogger(__name__)
CHUNK = 1 << 16  # batches looked at together when counting what a reader has had

Example = TypeVar("Example")
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Layout:
    """How batches fall to readers: pictures in a batch, workers of a process (0: it reads itself), processes."""

    batch: int
    workers: int = 2
    processes: int = 1

    def __post_init__(self) -> None:
        if self.batch < 1 or self.workers < 0:
            raise ValueError(f"batch is {self.batch} and workers {self.workers}; at least 1 and 0 are expected")


@dataclass(frozen=True)
class Fed(Generic[Batch]):
    """A batch, and for each picture that was left out of it, why."""

    batch: Batch
    skipped: tuple[str, ...]


class Batches(IterableDataset[Fed[Any] | DataError], Generic[Example, Batch]):
    """The batches of one process from number `first` on, without end.

    `make` turns a record into an example, with a generator that is the example's own; `collate` examples into a batch.
    Both raise DataError for what cannot be used: a set that skips faulty records leaves them out of the batch, else the
    error comes in the batch's place.
    """

    def __init__(
        self,
        sets: Sequence[WeightedSet],
        make: Callable[[Record, np.random.Generator], Example],
        collate: Callable[[list[Example]], Batch],
        layout: Layout,
        *,
        seed: int,
        first: int = 0,
        rank: int = 0,
    ) -> None:
        super().__init__()
        self._sets, self._make, self._collate = tuple(sets), make, collate
        self._layout, self._seed, self._first, self._rank = layout, seed, first, rank
        self._mixture = Mixture([one.weight for one in sets], seed=seed)

    def __iter__(self) -> Iterator[Fed[Batch] | DataError]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        reader = _Reader(self._sets, self._mixture, self._layout, seed=self._seed, rank=self._rank)
        number = self._first + worker
        while True:
            try:
                yield self._batch(number, reader)
            except DataError as error:
                yield error  # raised in a worker, it would come with that worker's traceback for a message
            number += workers

    def _batch(self, number: int, reader: "_Reader") -> Fed[Batch]:
        examples, skipped = [], []
        for place in self._layout_places(number):
            chosen = self._sets[int(self._mixture.sets(np.asarray(place)))]
            try:
                record = reader.record(place, number)
                examples.append(self._make(record, np.random.default_rng([self._seed, 3, place])))
            except DataError as error:
                if not chosen.skip:
                    raise
                skipped.append(str(error))
        if not examples:
            raise DataError(f"all {self._layout.batch} records of a batch are faulty, the last one: {skipped[-1]}")
        return Fed(self._collate(examples), tuple(skipped))

    def _layout_places(self, number: int) -> range:
        start = (number * self._layout.processes + self._rank) * self._layout.batch
        return range(start, start + self._layout.batch)


class _Reader:
    """What one worker keeps open: the order of each set, and the streams of shards where it reads them."""

    def __init__(self, sets: Sequence[WeightedSet], mixture: Mixture, layout: Layout, *, seed: int, rank: int) -> None:
        self._sets, self._mixture, self._layout = sets, mixture, layout
        self._seed, self._rank = seed, rank
        self._orders: dict[int, Shuffled] = {}
        self._streams: dict[int, Iterator[Record | DataError]] = {}

    def record(self, place: int, number: int) -> Record:
        """The record of a place of the mixture, which is in this process's batch `number`; DataError if faulty."""
        chosen = int(self._mixture.sets(np.asarray(place)))
        records = self._sets[chosen].records
        if isinstance(records, ShardStream):
            if chosen not in self._streams:
                self._streams[chosen] = self._stream(records, chosen, place, number)
            found = next(self._streams[chosen])
            if isinstance(found, DataError):
                raise found
            return found
        if chosen not in self._orders:
            self._orders[chosen] = Shuffled(len(records), seed=self._seed, number=chosen)
        return records[self._orders[chosen].index(self._mixture.ordinal(place))]

    def _stream(self, records: ShardStream, chosen: int, place: int, number: int) -> Iterator[Record | DataError]:
        """A stream of shards from where this reader stands: past all it gave to earlier batches."""
        workers = max(1, self._layout.workers)
        earlier = np.arange(number % workers, number, workers, dtype=np.int64)
        offsets = np.arange(self._layout.batch, dtype=np.int64)
        had = 0
        for chunk in np.array_split(earlier, len(earlier) // CHUNK + 1):
            places = ((chunk * self._layout.processes + self._rank) * self._layout.batch)[:, None] + offsets
            had += int((self._mixture.sets(places) == chosen).sum())
        start = (number * self._layout.processes + self._rank) * self._layout.batch
        had += int((self._mixture.sets(np.arange(start, place, dtype=np.int64)) == chosen).sum())
        part = (number % workers) * self._layout.processes + self._rank
        parts = workers * self._layout.processes
        return records.read(seed=self._seed + chosen, part=part, parts=parts, skip=had)


def loader(batches: Batches[Example, Batch], layout: Layout) -> Iterator[Fed[Batch]]:
    """The batches in order, made by the layout's workers; DataError where one cannot be made."""
    for made in DataLoader(batches, batch_size=None, num_workers=layout.workers, worker_init_fn=_alone):
        if isinstance(made, DataError):
            raise made
        yield made


class Feed(Generic[Batch]):
    """The batches of a process as they are learnt from, and how many there have been."""

    def __init__(self, batches: Callable[[int], Batches[Any, Batch]], layout: Layout) -> None:
        self._batches, self._layout = batches, layout
        self._iterator: Iterator[Fed[Batch]] | None = None
        self.count = self.skipped = 0

    def next(self) -> Batch:
        """The next batch; pictures left out of it are told in the log."""
        if self._iterator is None:
            self._iterator = loader(self._batches(self.count), self._layout)
        fed = next(self._iterator)
        self.count += 1
        self.skipped += len(fed.skipped)
        for why in fed.skipped:
            LOG.warning("left out: %s", why)
        return fed.batch

    def close(self) -> None:
        """Let the workers go."""
        self._iterator = None

    def state(self) -> dict[str, Any]:
        """How far the data are read, and what that depends on."""
        layout = {"batch": self._layout.batch, "workers": self._layout.workers, "processes": self._layout.processes}
        return {"count": self.count, "skipped": self.skipped, **layout}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on behind the batches that were learnt from; ValueError where they would be others now."""
        for name in ("batch", "workers", "processes"):
            if state[name] != (now := getattr(self._layout, name)):
                raise ValueError(
                    f"the run was begun with {name} = {state[name]}, now it is {now}: batches would differ"
                )
        self.count, self.skipped, self._iterator = state["count"], state["skipped"], None


def _alone(worker: int) -> None:
    """A worker has one thread: there are as many workers as there is to do."""
    torch.set_num_threads(1)
