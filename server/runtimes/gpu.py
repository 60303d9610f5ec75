"""A GPU as all runtimes of the process share it: its pools, and the buffers of one run. Tested on stand-ins so far."""

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

# What the pools keep for later runs: sizes differ from request to request, and each would be kept for good.
KEPT_DEVICE_BYTES, KEPT_PINNED_BYTES = 2**30, 2**28


class Gpu:
    """One GPU: `buffers` on it, of at most `memory_bytes` (0: no limit), and page-locked `staging` for copies.

    `activations`: what engines compute in. `graphs`: held while ONNX Runtime computes. `arena`: whether its sessions
    share one, None until the first asks. `free_bytes`: what the device had free at first. `lost`: why it answers
    nothing any more, else empty.
    """

    def __init__(self, ordinal: int, memory_bytes: int = 0) -> None:
        self.cuda = Cuda(ordinal)
        self.ordinal, self.name = ordinal, f"cuda:{ordinal}"
        self.lost = ""
        self.memory_bytes, (self.free_bytes, _) = memory_bytes, self.cuda.memory()
        self.graphs = threading.Lock()
        self.arena: bool | None = None
        self.pinned = PinnedAllocator(self.cuda)
        self.staging = BufferPool(self.pinned, name=f"pinned:{ordinal}", soft_limit=KEPT_PINNED_BYTES)
        memory = DeviceAllocator(self.cuda)
        self.activations = Activations(self.cuda, memory)
        self.buffers = BufferPool(
            memory,
            name=self.name,
            cap=memory_bytes or None,
            soft_limit=memory_bytes // 2 or KEPT_DEVICE_BYTES,
        )

    @contextmanager
    def watched(self) -> Iterator[None]:
        """For work of the calling thread; DeviceLost where it fails and the GPU fails everything since.

        An illegal address, say, spoils the process's whole context, and is told by whatever is called next, of any
        runtime. Other failures pass: an error that was told once is gone, unless it is of this kind.
        """
        if self.lost:
            raise DeviceLost(self.lost)
        try:
            self.cuda.use()
            yield
        except Exception as error:
            self._ask_whether_lost(error)
            raise

    def _ask_whether_lost(self, error: Exception) -> None:
        try:
            self.cuda.synchronize(0)
        except CudaError as fault:
            self.lost = f"{self.name} is lost ({fault}); only a new process can use it again"
            log.critical("%s; it began with: %s", self.lost, error)
            raise DeviceLost(self.lost) from error

    @contextmanager
    def loan(self, owner: str, stream: int) -> Iterator["Loan"]:
        """Buffers for one run on a stream, given back at the end; where the run fails, once the stream is done."""
        loan = Loan(self, owner, stream)
        try:
            yield loan
        except BaseException:
            with suppress(CudaError, MemoryError):
                self.cuda.synchronize(stream)
            raise
        finally:
            loan.release()


class Activations:
    """One block of a device that all engines compute in, so they take turns, in the order in which they ask."""

    def __init__(self, cuda: Cuda, allocator: Allocator) -> None:
        self._cuda, self._allocator = cuda, allocator
        self._lock = threading.Lock()
        self._block: Block | None = None
        self._done: int | None = None  # the event that the last turn ends with

    @property
    def nbytes(self) -> int:
        """The size of the block."""
        return self._block.nbytes if self._block else 0

    def reserve(self, nbytes: int) -> None:
        """Let the block have at least `nbytes`; MemoryError where there is no room for a larger one beside it."""
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
    def turn(self, stream: int) -> Iterator[tuple[int, int]]:
        """The block's address and size, for work that is put on the stream within; it begins when the last is done."""
        with self._lock:
            if self._done is None:
                self._done = self._cuda.event()
            self._cuda.wait(stream, self._done)
            try:
                yield (self._block.address, self._block.nbytes) if self._block else (0, 0)
            finally:
                self._cuda.record(self._done, stream)


class Loan:
    """The buffers of one run: what it uploads, computes into and downloads, all in the order of its stream."""

    def __init__(self, gpu: Gpu, owner: str, stream: int) -> None:
        self._gpu, self._owner, self._stream = gpu, owner, stream
        self._leases: list[Lease[Any]] = []

    def buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> int:
        """The address of memory on the device for such an array."""
        lease = self._gpu.buffers.lease(shape, np.dtype(dtype).type, owner=self._owner, stream=self._stream)
        self._leases.append(lease)
        return lease.address

    def upload(self, array: npt.NDArray[Any], dtype: npt.DTypeLike) -> int:
        """The address of the array's copy on the device, once the stream is there; it must not change before that.

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
        """A view of page-locked memory that holds the device's array once the stream is there, until the end."""
        target = self._staged(shape, dtype)
        if target.nbytes:
            self._gpu.cuda.copy_to_host(target.ctypes.data, address, target.nbytes, self._stream)
        return target

    def release(self) -> None:
        """Give all buffers back."""
        while self._leases:
            self._leases.pop().release()

    def _staged(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        lease = self._gpu.staging.lease(shape, np.dtype(dtype).type, owner=self._owner)
        self._leases.append(lease)
        return lease.array

    def _page_locked(self, array: npt.NDArray[Any], dtype: npt.DTypeLike) -> bool:
        ready = array.flags.c_contiguous and array.dtype == np.dtype(dtype)
        return ready and self._gpu.pinned.refcount(array.ctypes.data, array.nbytes)


_opened: dict[int, Gpu] = {}
_lock = threading.Lock()


def open_gpu(device: Device) -> Gpu:
    """The GPU of a device, the same for all who ask; CudaError where it cannot be used."""
    ordinal = device.ordinal
    assert ordinal is not None, "the processor is no GPU"
    with _lock:
        if ordinal not in _opened:
            _opened[ordinal] = Gpu(ordinal, device.memory_bytes)
        return _opened[ordinal]
