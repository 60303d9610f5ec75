"""LRU cache of text features, bounded in bytes; concurrent requests for one prompt share its computation."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from server.telemetry.metrics import Metrics, ModelMetrics

Float32 = npt.NDArray[np.float32]
# Computes the features of a request's keys at these indices, in their order.
Compute = Callable[[Sequence[int]], Awaitable[Sequence[Float32]]]
# Size of an entry besides its array: key, dictionary slot, array header.
OVERHEAD_BYTES = 512


class Owner(Protocol):
    """The model that a cache entry belongs to; two models of one name have separate entries."""

    @property
    def metrics(self) -> ModelMetrics: ...
    @property
    def retired(self) -> bool: ...


class PromptCache:
    """The most recently used features by (owner, key). Used from the event loop's thread only, hence no lock."""

    def __init__(self, capacity: int, metrics: Metrics) -> None:
        self._capacity, self._metrics = capacity, metrics
        self._entries: OrderedDict[tuple[Owner, str], Float32] = OrderedDict()
        self._pending: dict[tuple[Owner, str], tuple[asyncio.Task[Sequence[Float32]], int]] = {}
        self.bytes = 0
        metrics.prompt_cache_bytes.set(0)

    async def get(self, owner: Owner, keys: Sequence[str], compute: Compute) -> list[Float32]:
        """The features of each key, read-only; `compute` gets the indices of those neither cached nor being computed.

        Cancelling the caller does not stop the computation, since others may wait for it.
        """
        found: dict[str, Float32 | tuple[asyncio.Task[Sequence[Float32]], int]] = {}
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
            task = asyncio.create_task(self._fill(owner, list(missing), compute(list(missing.values()))))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # all waiters may be gone
            for position, key in enumerate(missing):
                self._pending[owner, key] = found[key] = task, position
        features = []
        for value in (found[key] for key in keys):
            features.append((await asyncio.shield(value[0]))[value[1]] if isinstance(value, tuple) else value)
        return features

    def drop(self, owner: Owner) -> None:
        """Remove all features of a retired owner."""
        for key in [key for key in self._entries if key[0] is owner]:
            self.bytes -= _size(self._entries.pop(key))
        self._metrics.prompt_cache_bytes.set(self.bytes)

    async def _fill(
        self, owner: Owner, keys: Sequence[str], computing: Awaitable[Sequence[Float32]]
    ) -> Sequence[Float32]:
        try:
            computed = await computing
            for key, features in zip(keys, computed, strict=True):
                features.setflags(write=False)
                self._keep(owner, key, features)
            return computed
        finally:
            for key in keys:
                del self._pending[owner, key]

    def _keep(self, owner: Owner, key: str, features: Float32) -> None:
        if _size(features) > self._capacity or owner.retired:
            return
        self._entries[owner, key] = features
        self.bytes += _size(features)
        while self.bytes > self._capacity:
            (evicted, _), dropped = self._entries.popitem(last=False)
            self.bytes -= _size(dropped)
            evicted.metrics.prompt_cache_evictions.inc()
        self._metrics.prompt_cache_bytes.set(self.bytes)


def _size(features: Float32) -> int:
    return features.nbytes + OVERHEAD_BYTES
