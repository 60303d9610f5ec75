"""Memory that model runs borrow: blocks in size classes, bounded, reused, and accounted for by who holds them.

A block belongs to the pool from its allocation to its trimming, and is free or in use. Free blocks are reused, last
released first, and trimmed, first released first.
"""

import ctypes
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
POISON = 0xFF  # a NaN in every float, True in a bool, -1 in an integer


class PoolExhausted(Exception):
    """The pool cannot lend this now: its cap or its allocator leaves no room, even with every free block trimmed."""


class UseAfterRelease(RuntimeError):
    """A free block was written to by who had released it; found by pools in debug mode only."""


@dataclass(frozen=True)
class PoolStats:
    """What a pool holds, in bytes of size classes.

    `reserved`: taken from the allocator; `in_use`: lent, of that; `high_water`: the most ever lent at once. By owner:
    `blocks` in use, and `leaked`, how many were collected unreleased since the start.
    """

    reserved: int
    in_use: int
    high_water: int
    blocks: Mapping[str, int]
    leaked: Mapping[str, int]


def size_class(nbytes: int) -> int:
    """The size of the block that holds `nbytes`: whole pages, and powers of two split in quarters.

    A block exceeds what was asked for by less than a quarter of it, or by less than one page.
    """
    step = max(PAGE_BYTES, 1 << max(0, (nbytes - 1).bit_length() - 3))
    return max(1, -(-nbytes // step)) * step


class Lease(Generic[Scalar]):
    """A block lent to `owner` until released; as a context manager it gives its array, and releases at the end.

    The array is uninitialised. It and its views are not to be used after the release: the block may be another's.
    Memory of a device has no array: take its `address`, and call `release`.
    """

    def __init__(
        self, pool: "BufferPool", block: Block, shape: tuple[int, ...], dtype: type[Scalar], owner: str
    ) -> None:
        self._pool, self._block, self._shape, self._dtype = pool, block, shape, np.dtype(dtype)
        self.owner = owner
        self.held = True

    @property
    def address(self) -> int:
        """Where the block begins, on its device."""
        self._refuse_released()
        return self._block.address

    @property
    def nbytes(self) -> int:
        """The size of the block, which may exceed what was asked for."""
        return self._block.nbytes

    @property
    def array(self) -> npt.NDArray[Scalar]:
        """A view of the block; for memory of the host only."""
        return np.asarray(self)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        # The array refers to the lease, never the other way round: a lease is collected with its last view, and
        # only then does its block count as leaked.
        self._refuse_released()
        if not self._pool.on_host:
            raise TypeError("the processor cannot read this pool's blocks: pass their address to the device")
        return {"version": 3, "shape": self._shape, "typestr": self._dtype.str, "data": (self._block.address, False)}

    def release(self) -> None:
        """Give the block back; again does nothing."""
        self._pool._take_back(self)

    def __enter__(self) -> npt.NDArray[Scalar]:
        return self.array

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.release()

    def __del__(self) -> None:
        if getattr(self, "held", False):
            # The collector may run inside the pool's own lock, so the pool only takes note.
            self._pool._abandoned.append((self._block, self.owner))

    def _refuse_released(self) -> None:
        if not self.held:
            raise ValueError(f"a lease of {self.owner} is used after its release")


@dataclass(frozen=True, eq=False)
class _Free:
    released: int  # a number that grows from release to release
    block: Block
    owner: str


class BufferPool:
    """Lends blocks of `allocator`; all methods may be called from several threads.

    `cap`: bytes it never holds more than; `soft_limit`: bytes above which free blocks are trimmed at each release (0
    keeps none). `debug` fills every block that nobody holds with POISON, and raises UseAfterRelease when a free block
    that was written to is lent or trimmed. A block is reused on the stream it was allocated on.
    """

    def __init__(
        self,
        allocator: Allocator,
        *,
        name: str = "host",
        cap: int | None = None,
        soft_limit: int | None = None,
        debug: bool = False,
    ) -> None:
        if cap is not None and cap < PAGE_BYTES:
            raise ValueError(f"cap={cap}: a pool needs at least {PAGE_BYTES} bytes, the smallest block")
        self.name, self.cap = name, cap
        self._allocator, self._soft_limit, self._debug = allocator, soft_limit, debug and allocator.on_host
        self._lock = threading.Lock()
        self._free: dict[tuple[int, int | None], deque[_Free]] = {}
        self._releases = count()
        self._abandoned: deque[tuple[Block, str]] = deque()
        self._blocks: Counter[str] = Counter()
        self._leaked: Counter[str] = Counter()
        self._reserved = self._in_use = self._high_water = 0

    @property
    def on_host(self) -> bool:
        """Whether the processor can read and write its blocks."""
        return self._allocator.on_host

    def lease(
        self, shape: tuple[int, ...], dtype: type[Scalar], *, owner: str, stream: int | None = None
    ) -> Lease[Scalar]:
        """A block for an array of that shape and dtype; PoolExhausted at once where there is no room for it."""
        size = size_class(math.prod(shape) * np.dtype(dtype).itemsize)
        with self._lock:
            self._reclaim()
            block = self._reused(size, stream) or self._allocated(size, stream, owner)
            self._in_use += block.nbytes
            self._high_water = max(self._high_water, self._in_use)
            self._blocks[owner] += 1
        return Lease(self, block, shape, dtype, owner)

    def resize(self, cap: int) -> None:
        """Hold at most `cap` bytes from now on, half of it free; what is lent beyond it stays so until its release."""
        with self._lock:
            self.cap, self._soft_limit = cap, cap // 2
            self._trim(self._soft_limit)

    def trim(self, to_bytes: int = 0) -> int:
        """Give free blocks back to the allocator until at most `to_bytes` are held, blocks in use included; the bytes
        given back."""
        with self._lock:
            self._reclaim()
            return self._trim(to_bytes)

    def stats(self) -> PoolStats:
        """What the pool holds now, all numbers of one moment."""
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
        self._poison(block)
        self._in_use -= block.nbytes
        self._blocks[owner] -= 1
        key = block.nbytes, block.stream
        self._free.setdefault(key, deque()).append(_Free(next(self._releases), block, owner))
        if self._soft_limit is not None:
            self._trim(self._soft_limit)

    def _reused(self, size: int, stream: int | None) -> Block | None:
        waiting = self._free.get((size, stream))
        return self._unfree(waiting.pop()) if waiting else None

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
        self._poison(block)
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
            oldest = min((blocks for blocks in self._free.values() if blocks), key=lambda blocks: blocks[0].released)
            block = self._unfree(oldest.popleft())
            self._reserved -= block.nbytes
            self._allocator.free(block)
        return held - self._reserved

    def _poison(self, block: Block) -> None:
        if self._debug:
            ctypes.memset(block.address, POISON, block.nbytes)

    def _unfree(self, free: _Free) -> Block:
        if self._debug:
            content = np.ctypeslib.as_array((ctypes.c_uint8 * free.block.nbytes).from_address(free.block.address))
            if not (content == POISON).all():
                self._reserved -= free.block.nbytes  # it is lost: whoever wrote to it may still
                raise UseAfterRelease(f"a block was written to after {free.owner} had released it")
        return free.block
