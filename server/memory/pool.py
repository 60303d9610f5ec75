"""Buffer pool for model runs: blocks in size classes, bounded, reused, and accounted for by owner.

A block belongs to the pool from its allocation to its trimming, and is free or in use. Free blocks are reused, last
released first, and trimmed, first released first.
"""

import math
import threading
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from server.memory.allocators import Allocator, Block

Scalar = TypeVar("Scalar", bound=np.generic)
PAGE_BYTES = 4096


class PoolExhausted(Exception):
    """A request with no room left in the pool: its cap or its allocator refuses, even with every free block trimmed."""


@dataclass(frozen=True)
class PoolStats:
    """Accounts of a pool, in bytes of whole blocks.

    reserved: taken from the allocator; in_use: lent, of that; high_water: the most ever lent at once. By owner: number
    of blocks in use, and number leaked, that is garbage-collected without a release, since the start.
    """

    reserved: int
    in_use: int
    high_water: int
    blocks: Mapping[str, int]
    leaked: Mapping[str, int]


def size_class(nbytes: int) -> int:
    """Size of the block that holds `nbytes`: whole pages, and powers of two split in quarters.

    It exceeds `nbytes` by less than a quarter, or by less than one page.
    """
    step = max(PAGE_BYTES, 1 << max(0, (nbytes - 1).bit_length() - 3))
    return max(1, -(-nbytes // step)) * step


class Lease(Generic[Scalar]):
    """A block lent to `owner` until it is released; as a context manager it gives its array, and releases it.

    The array is uninitialised. It and its views must not be used after the release: the block may have been lent again.
    Device memory has no array: use its `address`, and call `release`.
    """

    def __init__(
        self, pool: "BufferPool", block: Block, shape: tuple[int, ...], dtype: type[Scalar], owner: str
    ) -> None:
        self._pool, self._block, self._shape, self._dtype = pool, block, shape, np.dtype(dtype)
        self.owner = owner
        self.held = True

    @property
    def address(self) -> int:
        """Address of the block, on its device."""
        self._refuse_released()
        return self._block.address

    @property
    def nbytes(self) -> int:
        """Size of the block, which may exceed the size of the array."""
        return self._block.nbytes

    @property
    def array(self) -> npt.NDArray[Scalar]:
        """View of the block; host memory only."""
        return np.asarray(self)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        # The array refers to the lease, never the other way round: a lease is garbage-collected with its last view,
        # and only then does its block count as leaked.
        self._refuse_released()
        if not self._pool.on_host:
            raise TypeError("the CPU cannot read the blocks of this pool: pass their address to the device")
        return {"version": 3, "shape": self._shape, "typestr": self._dtype.str, "data": (self._block.address, False)}

    def release(self) -> None:
        """Give the block back; a second call does nothing."""
        self._pool._take_back(self)

    def __enter__(self) -> npt.NDArray[Scalar]:
        return self.array

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def __del__(self) -> None:
        if getattr(self, "held", False):
            # The garbage collector may run while the pool holds its lock, so the block is only queued here.
            self._pool._abandoned.append((self._block, self.owner))

    def _refuse_released(self) -> None:
        if not self.held:
            raise ValueError(f"a lease of {self.owner} was used after its release")


class BufferPool:
    """Lends blocks of `allocator`; all methods may be called from several threads.

    cap: the most bytes it holds; soft_limit: bytes above which free blocks are trimmed at each release (0 keeps none).
    A block is reused only on the stream it was allocated on.
    """

    def __init__(
        self,
        allocator: Allocator,
        *,
        name: str = "host",
        cap: int | None = None,
        soft_limit: int | None = None,
    ) -> None:
        if cap is not None and cap < PAGE_BYTES:
            raise ValueError(f"cap={cap}: accepted are {PAGE_BYTES} bytes, the smallest block, and more")
        self.name, self.cap = name, cap
        self._allocator, self._soft_limit = allocator, soft_limit
        self._lock = threading.Lock()
        # By size and stream: number of the release, which grows, and block.
        self._free: dict[tuple[int, int | None], deque[tuple[int, Block]]] = {}
        self._releases = count()
        self._abandoned: deque[tuple[Block, str]] = deque()
        self._blocks: Counter[str] = Counter()
        self._leaked: Counter[str] = Counter()
        self._reserved = self._in_use = self._high_water = 0

    @property
    def on_host(self) -> bool:
        """True where the CPU can read and write its blocks."""
        return self._allocator.on_host

    def lease(
        self, shape: tuple[int, ...], dtype: type[Scalar], *, owner: str, stream: int | None = None
    ) -> Lease[Scalar]:
        """Lend a block for an array of this shape and dtype; PoolExhausted at once where there is no room for it."""
        size = size_class(math.prod(shape) * np.dtype(dtype).itemsize)
        with self._lock:
            self._reclaim()
            block = self._reused(size, stream) or self._allocated(size, stream, owner)
            self._in_use += block.nbytes
            self._high_water = max(self._high_water, self._in_use)
            self._blocks[owner] += 1
        return Lease(self, block, shape, dtype, owner)

    def resize(self, cap: int) -> None:
        """Hold at most `cap` bytes from now on, half of it free; blocks lent beyond it stay until their release."""
        with self._lock:
            self.cap, self._soft_limit = cap, cap // 2
            self._trim(self._soft_limit)

    def trim(self, to_bytes: int = 0) -> int:
        """Free blocks until at most `to_bytes` are held, blocks in use included; returns the bytes freed."""
        with self._lock:
            self._reclaim()
            return self._trim(to_bytes)

    def stats(self) -> PoolStats:
        """Accounts of the pool, all of one moment."""
        with self._lock:
            self._reclaim()
            return PoolStats(self._reserved, self._in_use, self._high_water, dict(+self._blocks), dict(self._leaked))

    def _take_back(self, lease: Lease[Any]) -> None:
        with self._lock:
            if lease.held:
                lease.held = False
                self._put(lease._block, lease.owner)
            self._reclaim()

    def _reclaim(self) -> None:
        while self._abandoned:
            block, owner = self._abandoned.popleft()
            self._leaked[owner] += 1
            self._put(block, owner)

    def _put(self, block: Block, owner: str) -> None:
        self._in_use -= block.nbytes
        self._blocks[owner] -= 1
        key = block.nbytes, block.stream
        self._free.setdefault(key, deque()).append((next(self._releases), block))
        if self._soft_limit is not None:
            self._trim(self._soft_limit)

    def _reused(self, size: int, stream: int | None) -> Block | None:
        free = self._free.get((size, stream))
        return free.pop()[1] if free else None

    def _allocated(self, size: int, stream: int | None, owner: str) -> Block:
        if self.cap is not None:
            if self._in_use + size > self.cap:
                raise PoolExhausted(
                    f"the pool {self.name!r} cannot lend {size} bytes to {owner}: {self._in_use} of its {self.cap}"
                    " bytes are in use"
                )
            self._trim(self.cap - size)
        try:
            block = self._allocator.allocate(size, stream=stream)
        except MemoryError:
            block = self._allocated_after_trimming(size, stream, owner)
        self._reserved += block.nbytes
        return block

    def _allocated_after_trimming(self, size: int, stream: int | None, owner: str) -> Block:
        self._trim(0)
        try:
            return self._allocator.allocate(size, stream=stream)
        except MemoryError as error:
            raise PoolExhausted(
                f"the pool {self.name!r} cannot lend {size} bytes to {owner}: {error}; {self._in_use} bytes are in use"
            ) from error

    def _trim(self, to_bytes: int) -> int:
        held = self._reserved
        while self._reserved > to_bytes and any(self._free.values()):
            oldest = min((blocks for blocks in self._free.values() if blocks), key=lambda blocks: blocks[0][0])
            _, block = oldest.popleft()
            self._reserved -= block.nbytes
            self._allocator.free(block)
        return held - self._reserved
