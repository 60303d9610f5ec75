"""Batches of a mixture of sets, read by several workers.

The content of a batch follows from the seed, the batch's number and the layout (`BatchLayout`) alone, so a run is
resumed by the number of batches it has had, and no state of a worker has to be saved.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from models.data.datasets import WeightedSet
from models.data.faults import counts_text, kind_of_fault
from models.data.images import DataError
from models.data.mixture import EpochShuffle, Mixture
from models.data.records import Record, RecordGenerator
from models.data.shards import ShardStream

LOG = logging.getLogger(__name__)
CHUNK = 1 << 16  # batches per array operation when counting the records that a reader has had

Example = TypeVar("Example")
Batch = TypeVar("Batch")


@dataclass(frozen=True)
class BatchLayout:
    """Pictures in a batch, workers of a process (0: it reads by itself), and processes."""

    batch: int
    workers: int = 2
    processes: int = 1


@dataclass(frozen=True)
class LoadedBatch(Generic[Batch]):
    """A batch, and for each picture that was left out of it, the kind of the fault and the reason."""

    batch: Batch
    skipped: tuple[tuple[str, str], ...]


class BatchStream(IterableDataset[LoadedBatch[Any] | DataError], Generic[Example, Batch]):
    """The batches of one process from number `first` on, without end.

    `transform` turns a record into an example, with a random generator of the example's own; `collate` examples into a
    batch. Both raise DataError for a record that cannot be used: a set that skips faulty records leaves it out of the
    batch, else the error comes in the batch's place. `length`: batches of the run in each process, 0 outside of one.
    """

    def __init__(
        self,
        sets: Sequence[WeightedSet],
        transform: Callable[[Record, np.random.Generator], Example],
        collate: Callable[[list[Example]], Batch],
        layout: BatchLayout,
        *,
        seed: int,
        first: int = 0,
        rank: int = 0,
        length: int = 0,
    ) -> None:
        super().__init__()
        self._sets, self._transform, self._collate = tuple(sets), transform, collate
        self.layout, self._seed, self._first, self._rank, self._length = layout, seed, first, rank, length
        self._mixture = Mixture([one.weight for one in sets], seed=seed)

    def starting_at(self, first: int) -> "BatchStream[Example, Batch]":
        """The same stream from another batch on."""
        stream = copy(self)
        stream._first = first
        return stream

    def __iter__(self) -> Iterator[LoadedBatch[Batch] | DataError]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        layout = self.layout
        total = self._length * layout.batch * layout.processes
        reader = _Reader(self._sets, self._mixture, layout, seed=self._seed, rank=self._rank, total=total)
        number = self._first + worker
        while True:
            try:
                yield self._batch(number, reader)
            except DataError as error:
                yield error  # raised in a worker, its message would be that worker's traceback
            number += workers

    def _batch(self, number: int, reader: "_Reader") -> LoadedBatch[Batch]:
        examples, skipped = [], []
        for place in self._places(number):
            chosen = self._sets[int(self._mixture.sets(np.asarray(place)))]
            try:
                record = reader.record(place, number)
                examples.append(self._transform(record, np.random.default_rng([self._seed, 3, place])))
            except DataError as error:
                if not chosen.skip:
                    raise
                skipped.append((kind_of_fault(error), str(error)))
        if not examples:
            raise DataError(f"all {self.layout.batch} records of a batch are faulty, the last one: {skipped[-1][1]}")
        return LoadedBatch(self._collate(examples), tuple(skipped))

    def _places(self, number: int) -> range:
        start = (number * self.layout.processes + self._rank) * self.layout.batch
        return range(start, start + self.layout.batch)


class _Reader:
    """The open sets of one worker: the order of each set, and its streams of shards."""

    def __init__(
        self,
        sets: Sequence[WeightedSet],
        mixture: Mixture,
        layout: BatchLayout,
        *,
        seed: int,
        rank: int,
        total: int,
    ) -> None:
        self._sets, self._mixture, self._layout = sets, mixture, layout
        self._seed, self._rank, self._total = seed, rank, total
        self._orders: dict[int, EpochShuffle] = {}
        self._streams: dict[int, Iterator[Record | DataError]] = {}

    def record(self, place: int, number: int) -> Record:
        """Read the record of a place of the mixture, in this process's batch `number`; DataError if it is faulty."""
        chosen = int(self._mixture.sets(np.asarray(place)))
        records, ordinal = self._sets[chosen].records, self._mixture.ordinal(place)
        if isinstance(records, RecordGenerator):
            total = self._total * self._mixture.share(chosen)
            return records.generate(ordinal, seed=self._seed + chosen, total=total)
        if isinstance(records, ShardStream):
            if chosen not in self._streams:
                self._streams[chosen] = self._stream(records, chosen, place, number)
            found = next(self._streams[chosen])
            if isinstance(found, DataError):
                raise found
            return found
        if chosen not in self._orders:
            self._orders[chosen] = EpochShuffle(len(records), seed=self._seed, number=chosen)
        return records[self._orders[chosen].index(ordinal)]

    def _stream(self, records: ShardStream, chosen: int, place: int, number: int) -> Iterator[Record | DataError]:
        """Open a stream of shards at this reader's position: past all it gave to earlier batches."""
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


def iterate_batches(stream: BatchStream[Example, Batch]) -> Iterator[LoadedBatch[Batch]]:
    """Iterate over the batches in order, made by the layout's workers; DataError for one that cannot be made."""
    workers = stream.layout.workers
    for loaded in DataLoader(stream, batch_size=None, num_workers=workers, worker_init_fn=_use_one_thread):
        if isinstance(loaded, DataError):
            raise loaded
        yield loaded


class BatchLoader(Generic[Batch]):
    """The batches of a process in training, and their count: the state that a resumed run needs."""

    def __init__(self, stream: BatchStream[Any, Batch]) -> None:
        self._stream = stream
        self._iterator: Iterator[LoadedBatch[Batch]] | None = None
        self.count, self.left_out = 0, Counter[str]()

    @property
    def skipped(self) -> int:
        """The number of pictures left out."""
        return self.left_out.total()

    def next(self) -> Batch:
        """Load the next batch; pictures left out of it are logged."""
        if self._iterator is None:
            self._iterator = iterate_batches(self._stream.starting_at(self.count))
        loaded = next(self._iterator)
        self.count += 1
        for kind, reason in loaded.skipped:
            self.left_out[kind] += 1
            LOG.warning("left out: %s", reason)
        return loaded.batch

    def close(self) -> None:
        """Stop the workers, and say how many pictures were left out in all."""
        self._iterator = None
        if self.left_out:
            LOG.warning("left out in all: %d (%s)", self.skipped, counts_text(self.left_out))

    def state(self) -> dict[str, Any]:
        """The number of batches read, and the layout it depends on."""
        return {"count": self.count, "left_out": dict(self.left_out), **vars(self._stream.layout)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after the batches already read; ValueError if the layout, and so the batches, would be others now."""
        for name in ("batch", "workers", "processes"):
            if state[name] != (now := getattr(self._stream.layout, name)):
                raise ValueError(
                    f"the run was begun with {name} = {state[name]}, now it is {now}: batches would differ"
                )
        self.count, self.left_out, self._iterator = state["count"], Counter(state.get("left_out", {})), None


def _use_one_thread(worker: int) -> None:
    torch.set_num_threads(1)
