"""LRU cache of text features, bounded in bytes; concurrent requests for one prompt share its computation."""

import asyncio
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from server.telemetry.metrics import Metrics, ModelMetrics

Float32 = npt.NDArray[np.float32]
# Computes the features of a request's keys at these indices, in their order.
Compute = Callable[[Sequence[int]], Awaitable[Sequence[Float32]]]
# Size of an entry besides its text and its numbers: slots of dictionary and list, tuple, headers of text and array.
OVERHEAD_BYTES = 512


class Owner(Protocol):
    """The model that a cache entry belongs to; two models of one name have separate entries."""

    @property
    def metrics(self) -> ModelMetrics: ...
    @property
    def retired(self) -> bool: ...


@dataclass(eq=False)
class _Computation:
    """Features being computed, by their keys, and the number of requests that wait for them."""

    keys: tuple[tuple[Owner, str], ...]
    task: "asyncio.Task[Sequence[Float32]]"
    waiting: int = 0


class PromptCache:
    """The most recently used features by (owner, key). Used from the event loop's thread only, hence no lock."""

    def __init__(self, capacity: int, metrics: Metrics) -> None:
        self._capacity, self._metrics = capacity, metrics
        self._entries: OrderedDict[tuple[Owner, str], Float32] = OrderedDict()
        self._pending: dict[tuple[Owner, str], tuple[_Computation, int]] = {}
        self.bytes = 0
        metrics.prompt_cache_bytes.set(0)

    async def get(self, owner: Owner, keys: Sequence[str], compute: Compute) -> list[Float32]:
        """The features of each key, read-only; `compute` gets the indices of those neither cached nor being computed.

        Cancelling the caller does not stop a computation that others wait for.
        """
        found: dict[str, Float32 | tuple[_Computation, int]] = {}
        missing: dict[str, int] = {}
        for index, key in enumerate(keys):
            if (owner, key) in self._entries:
                self._entries.move_to_end((owner, key))
                found[key] = self._entries[owner, key]
            elif (owner, key) in self._pending:
                found[key] = self._pending[owner, key]
            else:
                missing.setdefault(key, index)
        owner.metrics.prompt_cache_hits.inc(len(found))
        owner.metrics.prompt_cache_misses.inc(len(missing))
        if missing:
            task = asyncio.create_task(self._fill(owner, missing, compute))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # all waiters may be gone
            started = _Computation(tuple((owner, key) for key in missing), task)
            for position, key in enumerate(missing):
                self._pending[owner, key] = found[key] = started, position
        with self._waiting({value[0] for value in found.values() if isinstance(value, tuple)}):
            features = []
            for value in (found[key] for key in keys):
                features.append((await asyncio.shield(value[0].task))[value[1]] if isinstance(value, tuple) else value)
            return features

    @contextmanager
    def _waiting(self, computations: Collection[_Computation]) -> Iterator[None]:
        """Wait for computations; one that nobody waits for any more is cancelled."""
        for computation in computations:
            computation.waiting += 1
        try:
            yield
        finally:
            for computation in computations:
                computation.waiting -= 1
                if not computation.waiting and not computation.task.done():
                    computation.task.cancel()
                    self._forget(computation)  # at once: a request that comes now computes anew

    def _forget(self, computation: _Computation) -> None:
        for key in computation.keys:
            if key in self._pending and self._pending[key][0] is computation:
                del self._pending[key]

    def holds(self, owner: Owner, key: str) -> bool:
        """True where the features of `key` are cached."""
        return (owner, key) in self._entries

    def drop(self, owner: Owner) -> None:
        """Remove all features of a retired owner."""
        for key in [key for key in self._entries if key[0] is owner]:
            self.bytes -= _size(key[1], self._entries.pop(key))
        self._metrics.prompt_cache_bytes.set(self.bytes)

    async def _fill(self, owner: Owner, missing: Mapping[str, int], compute: Compute) -> Sequence[Float32]:
        keys = list(missing)
        started = self._pending[owner, keys[0]][0]
        try:
            computed = await compute(list(missing.values()))
            for key, features in zip(keys, computed, strict=True):
                features.setflags(write=False)
                self._keep(owner, key, features)
            return computed
        finally:
            self._forget(started)

    def _keep(self, owner: Owner, key: str, features: Float32) -> None:
        if _size(key, features) > self._capacity or owner.retired:
            return
        if features.base is not None:  # a view keeps all of the array it was cut from
            features = features.copy()
            features.setflags(write=False)
        self._entries[owner, key] = features
        self.bytes += _size(key, features)
        while self.bytes > self._capacity:
            (evicted, dropped_key), dropped = self._entries.popitem(last=False)
            self.bytes -= _size(dropped_key, dropped)
            evicted.metrics.prompt_cache_evictions.inc()
        self._metrics.prompt_cache_bytes.set(self.bytes)


def _size(key: str, features: Float32) -> int:
    return sys.getsizeof(key) + features.nbytes + OVERHEAD_BYTES
