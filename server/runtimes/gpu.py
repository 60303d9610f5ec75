"""A GPU as all runtimes of the process share it: its pools, and the buffers of one run. Tested on stand-ins only."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from server.memory.allocators import Allocator, Block, DeviceAllocator, PinnedAllocator
from server.memory.cuda import Cuda, CudaError, DeviceLost
from server.memory.pool import BufferPool, Lease
from server.runtimes.device import Device

log = logging.getLogger(__name__)

# Free memory that the pools keep for later runs: sizes differ from request to request, and each would be kept for good.
KEPT_DEVICE_BYTES, KEPT_PINNED_BYTES = 2**30, 2**28


class Gpu:
    """One GPU: `buffers` on it, of at most `memory_bytes` (0: no limit), and page-locked `staging` for copies.

    activations: the memory that engines compute in; arena_lock: held while ONNX Runtime computes; shares_arena: whether
    its sessions share one arena, None until the first is opened; free_bytes: free memory of the device at first; lost:
    reason why it can no longer be used, else empty.
    """

    def __init__(self, ordinal: int, memory_bytes: int = 0) -> None:
        self.cuda = Cuda(ordinal)
        self.ordinal, self.name = ordinal, f"cuda:{ordinal}"
        self.lost = ""
        self.memory_bytes, (self.free_bytes, _) = memory_bytes, self.cuda.memory()
        self.arena_lock = threading.Lock()
        self.shares_arena: bool | None = None
        self.pinned = PinnedAllocator(self.cuda)
        self.staging = BufferPool(self.pinned, name=f"pinned:{ordinal}", soft_limit=KEPT_PINNED_BYTES)
        memory = DeviceAllocator(self.cuda)
        self.activations = ActivationMemory(self.cuda, memory)
        self.buffers = BufferPool(
            memory,
            name=self.name,
            cap=memory_bytes or None,
            soft_limit=memory_bytes // 2 or KEPT_DEVICE_BYTES,
        )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Context for work of the calling thread; DeviceLost where it fails and the GPU fails everything since.

        An illegal address, for example, corrupts the CUDA context of the whole process, and every later call of any
        runtime reports it. Other errors are reported once and gone.
        """
        if self.lost:
            raise DeviceLost(self.lost)
        try:
            self.cuda.use()
            yield
        except Exception as error:
            self._raise_if_lost(error)
            raise

    def _raise_if_lost(self, error: Exception) -> None:
        try:
            self.cuda.synchronize(0)
        except CudaError as fault:
            self.lost = f"{self.name} is lost ({fault}); only a new process can use it again"
            log.critical("%s; the first error was: %s", self.lost, error)
            raise DeviceLost(self.lost) from error

    @contextmanager
    def run_buffers(self, owner: str, stream: int) -> Iterator["RunBuffers"]:
        """Buffers for one run on a stream, released at the end; where the run fails, once the stream is done."""
        buffers = RunBuffers(self, owner, stream)
        try:
            yield buffers
        except BaseException:
            with suppress(CudaError, MemoryError):
                self.cuda.synchronize(stream)
            raise
        finally:
            buffers.release()


class ActivationMemory:
    """One block of device memory that all engines compute in, one after the other, in the order of their calls."""

    def __init__(self, cuda: Cuda, allocator: Allocator) -> None:
        self._cuda, self._allocator = cuda, allocator
        self._lock = threading.Lock()
        self._block: Block | None = None
        self._done: int | None = None  # event at the end of the last use

    @property
    def nbytes(self) -> int:
        """Size of the block."""
        return self._block.nbytes if self._block else 0

    def reserve(self, nbytes: int) -> None:
        """Grow the block to at least `nbytes`; MemoryError where there is no room for a larger one beside it."""
        with self._lock:
            if nbytes <= self.nbytes:
                return
            larger = self._allocator.allocate(nbytes)
            if self._done is not None:
                self._cuda.wait_for(self._done)
            if self._block is not None:
                self._allocator.free(self._block)
            self._block = larger

    @contextmanager
    def exclusive(self, stream: int) -> Iterator[tuple[int, int]]:
        """Address and size of the block, for work put on the stream within; it starts when the last use is done."""
        with self._lock:
            if self._done is None:
                self._done = self._cuda.event()
            self._cuda.wait(stream, self._done)
            try:
                yield (self._block.address, self._block.nbytes) if self._block else (0, 0)
            finally:
                self._cuda.record(self._done, stream)


class RunBuffers:
    """Leases of one run: its uploads, device buffers and downloads, all in the order of its stream."""

    def __init__(self, gpu: Gpu, owner: str, stream: int) -> None:
        self._gpu, self._owner, self._stream = gpu, owner, stream
        self._leases: list[Lease[Any]] = []

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> int:
        """Address of device memory for an array."""
        lease = self._gpu.buffers.lease(shape, np.dtype(dtype).type, owner=self._owner, stream=self._stream)
        self._leases.append(lease)
        return lease.address

    def upload(self, array: npt.NDArray[Any], dtype: npt.DTypeLike) -> int:
        """Address of the copy of an array on the device, once the stream is there; do not change the array before.

        An array in page-locked memory is copied from where it is, any other is staged first.
        """
        address = self.buffer(array.shape, dtype)
        source = array
        if not self._page_locked(array, dtype):
            source = self._staged(array.shape, dtype)
            np.copyto(source, array, casting="same_kind")
        if source.nbytes:
            self._gpu.cuda.copy_to_device(address, source.ctypes.data, source.nbytes, self._stream)
        return address

    def download(self, address: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """Page-locked copy of an array on the device, valid once the stream is there and until the release."""
        target = self._staged(shape, dtype)
        if target.nbytes:
            self._gpu.cuda.copy_to_host(target.ctypes.data, address, target.nbytes, self._stream)
        return target

    def release(self) -> None:
        """Release all buffers."""
        while self._leases:
            self._leases.pop().release()

    def _staged(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        lease = self._gpu.staging.lease(shape, np.dtype(dtype).type, owner=self._owner)
        self._leases.append(lease)
        return lease.array

    def _page_locked(self, array: npt.NDArray[Any], dtype: npt.DTypeLike) -> bool:
        ready = array.flags.c_contiguous and array.dtype == np.dtype(dtype)
        return ready and self._gpu.pinned.owns(array.ctypes.data, array.nbytes)


_opened: dict[int, Gpu] = {}
_lock = threading.Lock()


def open_gpu(device: Device) -> Gpu:
    """The one Gpu object of a device; CudaError where it cannot be used."""
    ordinal = device.ordinal
    assert ordinal is not None, "the CPU is no GPU"
    with _lock:
        if ordinal not in _opened:
            _opened[ordinal] = Gpu(ordinal, device.memory_bytes)
        return _opened[ordinal]
