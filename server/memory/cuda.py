"""CUDA runtime calls through NVIDIA's Python binding, which is imported only where a GPU is chosen.

Streams, events and graphs are plain integers, as they are for TensorRT and ONNX Runtime. So far this has run only
against a stand-in for the binding, never on a GPU.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

BINDING = "cuda.bindings.runtime"
PACKAGE = "cuda-bindings"
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation
# Values of CUDA's headers, the same in every version.
_NON_BLOCKING, _NO_TIMING, _PORTABLE = 1, 2, 1


class CudaError(RuntimeError):
    """A CUDA call that failed; the message has its name."""


class DeviceLost(CudaError):
    """A device that fails every call since some work on it went wrong; only a new process can use it again."""


class Cuda:
    """One device of CUDA's runtime API; every call raises CudaError, or MemoryError where memory is short.

    A thread must call `use` before anything else.
    """

    def __init__(self, device: int = 0) -> None:
        self.device = device
        self._binding = load_binding()
        self.use()

    def use(self) -> None:
        """Make this the device of the calling thread."""
        self._call("cudaSetDevice", self.device)

    def memory(self) -> tuple[int, int]:
        """Free bytes of the device, and all of them."""
        free, total = self._call("cudaMemGetInfo")
        return int(free), int(total)

    def stream(self) -> int:
        """Create a stream, which does not wait for the default one."""
        return int(self._call("cudaStreamCreateWithFlags", _NON_BLOCKING)[0])

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream, once its work is done."""
        self._call("cudaStreamDestroy", stream)

    def synchronize(self, stream: int) -> None:
        """Wait until all work of the stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def event(self) -> int:
        """Create an event without timing."""
        return int(self._call("cudaEventCreateWithFlags", _NO_TIMING)[0])

    def record(self, event: int, stream: int) -> None:
        """Record the work that is on the stream now in the event."""
        self._call("cudaEventRecord", event, stream)

    def wait(self, stream: int, event: int) -> None:
        """Make later work of the stream wait for the event; the caller does not wait."""
        self._call("cudaStreamWaitEvent", stream, event, 0)

    def wait_for(self, event: int) -> None:
        """Block the caller until the event is done."""
        self._call("cudaEventSynchronize", event)

    def copy_to_device(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy from page-locked memory, in the order of the stream."""
        self._copy("cudaMemcpyHostToDevice", target, source, nbytes, stream)

    def copy_to_host(self, target: int, source: int, nbytes: int, stream: int) -> None:
        """Copy to page-locked memory, in the order of the stream."""
        self._copy("cudaMemcpyDeviceToHost", target, source, nbytes, stream)

    def allocate_pinned(self, nbytes: int) -> int:
        """Allocate page-locked host memory, for every device."""
        return int(self._call("cudaHostAlloc", nbytes, _PORTABLE)[0])

    def free_pinned(self, address: int) -> None:
        """Free page-locked memory; CUDA waits for work in progress."""
        self._call("cudaFreeHost", address)

    def allocate(self, nbytes: int, stream: int) -> int:
        """Allocate memory of the device, in the order of the stream."""
        return int(self._call("cudaMallocAsync", nbytes, stream)[0])

    def free(self, address: int, stream: int) -> None:
        """Free memory of the device, once the work of the stream so far is done."""
        self._call("cudaFreeAsync", address, stream)

    @contextmanager
    def captured(self, stream: int) -> Iterator[list[int]]:
        """Context that captures the work of the stream instead of running it; then the list holds its graph.

        Where the work fails or cannot be captured, the stream is usable again and nothing is left.
        """
        graphs: list[int] = []
        mode = self._binding.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", stream, mode)
        try:
            yield graphs
        except BaseException:
            self._abandon_capture(stream)
            raise
        recorded = int(self._call("cudaStreamEndCapture", stream)[0])
        try:
            graphs.append(int(self._call("cudaGraphInstantiate", recorded, 0)[0]))
        finally:
            self._call("cudaGraphDestroy", recorded)

    def launch(self, graph: int, stream: int) -> None:
        """Run a graph on the stream."""
        self._call("cudaGraphLaunch", graph, stream)

    def destroy_graph(self, graph: int) -> None:
        """Destroy a graph; where it is running, once it is done."""
        self._call("cudaGraphExecDestroy", graph)

    def _copy(self, kind: str, target: int, source: int, nbytes: int, stream: int) -> None:
        self._call("cudaMemcpyAsync", target, source, nbytes, getattr(self._binding.cudaMemcpyKind, kind), stream)

    def _abandon_capture(self, stream: int) -> None:
        status, recorded = self._binding.cudaStreamEndCapture(stream)
        self._binding.cudaGetLastError()
        if not int(status) and int(recorded):
            self._call("cudaGraphDestroy", recorded)

    def _call(self, name: str, *arguments: object) -> tuple[Any, ...]:
        status, *values = getattr(self._binding, name)(*arguments)
        if int(status):
            # CUDA keeps the error for the next caller that asks: a runtime would take it for its own.
            self._binding.cudaGetLastError()
            raise self._error(name, status)
        return tuple(values)

    def _error(self, name: str, status: Any) -> Exception:
        _, kind = self._binding.cudaGetErrorName(status)
        _, reason = self._binding.cudaGetErrorString(status)
        message = f"{name} failed: {kind.decode()}, {reason.decode()}"
        return MemoryError(message) if int(status) == _OUT_OF_MEMORY else CudaError(message)


def load_binding() -> Any:
    """Import NVIDIA's binding of CUDA's runtime API; CudaError says what to install."""
    try:
        return importlib.import_module(BINDING)
    except ImportError as error:
        raise CudaError(f"{PACKAGE} cannot be used ({error}); install it with: pip install {PACKAGE}") from None
