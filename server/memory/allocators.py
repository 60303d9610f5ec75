"""Where a pool's memory comes from: blocks of raw memory of the host or of a GPU, behind one protocol."""

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

    On a `stream` its use is ordered by that stream alone; None is memory that may be used at once. `memory` is what
    the allocator needs to keep for it.
    """

    address: int
    nbytes: int
    stream: int | None = None
    memory: object = None


class Allocator(Protocol):
    """Takes memory from a device or the host and gives it back; a pool calls it from one thread at a time."""

    @property
    def on_host(self) -> bool:
        """Whether the processor can read and write its blocks: page-locked memory can, a GPU's cannot."""

    def allocate(self, nbytes: int, *, stream: int | None = None) -> Block:
        """A block of `nbytes`, its content undefined; MemoryError where there is none."""

    def free(self, block: Block) -> None:
        """Give a block back, in the order of its stream."""


class HostAllocator:
    """Page-aligned memory of the host, straight from the system and back to it: nothing stays in the C heap."""

    on_host = True

    def allocate(self, nbytes: int, *, stream: int | None = None) -> Block:
        """A block of `nbytes` zeros at a page's start; MemoryError where the system has none."""
        try:
            memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except (OSError, OverflowError) as error:
            raise MemoryError(f"the system gave no {nbytes} bytes: {error}") from error
        return Block(ctypes.addressof(ctypes.c_char.from_buffer(memory)), nbytes, stream, memory)

    def free(self, block: Block) -> None:
        """Nothing to do: the memory is unmapped with the last that refers to the block, so no view is ever left
        dangling."""


class _PageLocked:
    """Stands for memory that is given back with the last reference to it."""


class PinnedAllocator:
    """Page-locked memory of the host, which a GPU copies from and to without the processor, while it computes."""

    on_host = True

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._held: dict[int, int] = {}

    def allocate(self, nbytes: int, *, stream: int | None = None) -> Block:
        """A block of `nbytes`, its content undefined; MemoryError where the system locks no more."""
        self._cuda.use()
        address, memory = self._cuda.allocate_pinned(nbytes), _PageLocked()
        self._held[address] = nbytes
        weakref.finalize(memory, self._give_back, address)
        return Block(address, nbytes, stream, memory)

    def free(self, block: Block) -> None:
        """Nothing to do: the memory goes with the last that refers to the block, so no view is ever left dangling."""

    def refcount(self, address: int, nbytes: int) -> bool:
        """Whether these bytes are page-locked memory of this allocator."""
        return any(start <= address and address + nbytes <= start + held for start, held in tuple(self._held.items()))

    def _give_back(self, address: int) -> None:
        del self._held[address]
        with suppress(CudaError):  # a device that is lost takes nothing back
            self._cuda.free_pinned(address)


class DeviceAllocator:
    """Memory of a GPU, taken and given back in the order of a stream; what is given back returns to the device.

    A block without a stream may be used by all of them at once, and is given back when none uses it any more.
    """

    on_host = False

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda

    def allocate(self, nbytes: int, *, stream: int | None = None) -> Block:
        """A block of `nbytes`, its content undefined; MemoryError where the device has none."""
        self._cuda.use()
        address = self._cuda.allocate(nbytes, stream or 0)
        if stream is None:
            self._cuda.synchronize(0)
        return Block(address, nbytes, stream)

    def free(self, block: Block) -> None:
        """Give a block back, once its stream's work so far is done."""
        self._cuda.free(block.address, block.stream or 0)
