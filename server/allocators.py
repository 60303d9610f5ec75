"""Where a pool's memory comes from: blocks of raw memory behind one protocol, in host memory for now."""

import ctypes
import mmap
from dataclasses import dataclass
from typing import Protocol


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
