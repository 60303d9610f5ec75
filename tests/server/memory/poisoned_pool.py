"""A buffer pool that finds use after release: free blocks are filled with a pattern, and checked when they leave."""

import ctypes

import numpy as np

from server.memory.pool import BufferPool

POISON = 0xFF  # a NaN in every float, True in a bool, -1 in an integer


class UseAfterRelease(RuntimeError):
    """A free block that was written to by its last owner."""


class PoisonedPool(BufferPool):
    """Fills each block that is not lent with POISON; UseAfterRelease where a free one is lent or trimmed changed."""

    def __init__(self, allocator, **options):
        super().__init__(_CheckingAllocator(allocator, self), **options)
        self.last_owner = {}

    def check(self, block):
        if owner := self.last_owner.pop(block.address, None):
            content = np.ctypeslib.as_array((ctypes.c_uint8 * block.nbytes).from_address(block.address))
            if not (content == POISON).all():
                raise UseAfterRelease(f"a block was written to after {owner} had released it")

    def _put(self, block, owner):
        if self.on_host:
            ctypes.memset(block.address, POISON, block.nbytes)
            self.last_owner[block.address] = owner
        super()._put(block, owner)

    def _reused(self, size, stream):
        block = super()._reused(size, stream)
        if block:
            try:
                self.check(block)
            except UseAfterRelease:
                self._reserved -= block.nbytes  # lost: whoever wrote to it may do so again
                raise
        return block

    def _allocated(self, size, stream, owner):
        block = super()._allocated(size, stream, owner)
        if self.on_host:
            ctypes.memset(block.address, POISON, block.nbytes)
        return block


class _CheckingAllocator:
    def __init__(self, allocator, pool):
        self.allocator, self.pool, self.on_host = allocator, pool, allocator.on_host
        self.allocate = allocator.allocate

    def free(self, block):
        self.pool.check(block)
        self.allocator.free(block)
