"""Allocators of raw memory for a pool: of the host, page-locked, and of a GPU."""

import ctypes
import mmap
import weakref
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from server.memory.cuda import Cuda, CudaError


@dataclass(frozen=True, eq=False)
class Block:
    """`nbytes` of memory at `address`.

    stream: the only one that may use it, in its order; None for memory that may be used at once. memory: an object that
    the allocator keeps for it.
    """

    address: int
    nbytes: int
    stream: int | None = None
    memory: object = None


class Allocator(Protocol):
    """Allocator of memory of the host or of a device; a pool calls it from one thread at a time."""

    @property
    def on_host(self) -> bool:
        """True where the CPU can read and write its blocks: page-locked memory, but not that of a GPU."""

    def allocate(self, nbytes: int, *, stream: int | None = None) -> Block:
        """Allocate a block of `nbytes`, uninitialised; MemoryError where there is none."""

    def free(self, block: Block) -> None:
        """Free a block, in the order of its stream."""


class HostAllocator:
    """Page-aligned host memory, mapped and unmapped by the system: nothing stays in the C heap."""

    on_host = True

    def allocate(self, nbytes: int, *, stream: int | None = None) -> Block:
        """Allocate a block of `nbytes` zeros at the start of a page; MemoryError where the system has none."""
        try:
            memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise MemoryError(f"the system has no {nbytes} bytes to give: {error}") from error
        return Block(ctypes.addressof(ctypes.c_char.from_buffer(memory)), nbytes, stream, memory)

    def free(self, block: Block) -> None:
        """Do nothing: the memory is unmapped with the last reference to the block, so that no view dangles."""


class _PageLocked:
    """Handle of memory that is freed with the last reference to it."""


class PinnedAllocator:
    """Page-locked host memory, which a GPU copies from and to by itself, while it computes."""

    on_host = True

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._held: dict[int, int] = {}

    def allocate(self, nbytes: int, *, stream: int | None = None) -> Block:
        """Allocate a block of `nbytes`, uninitialised; MemoryError where the system locks no more."""
        self._cuda.use()
        address, memory = self._cuda.allocate_pinned(nbytes), _PageLocked()
        self._held[address] = nbytes
        weakref.finalize(memory, self._free, address)
        return Block(address, nbytes, stream, memory)

    def free(self, block: Block) -> None:
        """Do nothing: the memory is freed with the last reference to the block, so that no view dangles."""

    def owns(self, address: int, nbytes: int) -> bool:
        """True for bytes in page-locked memory of this allocator."""
        return any(start <= address and address + nbytes <= start + held for start, held in tuple(self._held.items()))

    def _free(self, address: int) -> None:
        del self._held[address]
        with suppress(CudaError):  # a lost device frees nothing
            self._cuda.free_pinned(address)


class DeviceAllocator:
    """Memory of a GPU, allocated and freed in the order of a stream.

    A block without a stream may be used by all of them at once, and must be freed when none uses it any more.
    """

    on_host = False

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda

    def allocate(self, nbytes: int, *, stream: int | None = None) -> Block:
        """Allocate a block of `nbytes`, uninitialised; MemoryError where the device has none."""
        self._cuda.use()
        address = self._cuda.allocate(nbytes, stream or 0)
        if stream is None:
            self._cuda.synchronize(0)
        return Block(address, nbytes, stream)

    def free(self, block: Block) -> None:
        """Free a block, once the work of its stream so far is done."""
        self._cuda.free(block.address, block.stream or 0)
