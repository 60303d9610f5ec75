"""ONNX Runtime sessions: on the CPU, or on a GPU through the CUDA provider.

The CUDA provider has only run against a stand-in so far, never on a GPU.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from server.contract.manifest import BundleError
from server.installation import install_command
from server.memory.cuda import CudaError
from server.memory.pool import PoolExhausted
from server.runtimes.base import Session, Tensors
from server.runtimes.device import Device, gpu_at
from server.runtimes.gpu import Gpu, open_gpu

log = logging.getLogger(__name__)

CPU_PROVIDER, CUDA_PROVIDER = "CPUExecutionProvider", "CUDAExecutionProvider"
# In the message of a run that found no memory; the runtime has no exception class for it.
_NO_MEMORY = ("failed to allocate memory", "out of memory")
_NO_PROVIDER = (
    "the installed onnxruntime has no CUDA provider; uninstall it and install the other one with:"
    f" {install_command(('gpu',))}"
)
_SAME_AS_REQUESTED = 1  # of OrtArenaCfg's "arena_extend_strategy"


class OrtSession:
    """An ONNX graph in ONNX Runtime on the CPU; with `threads` 0 the runtime chooses their number."""

    provider = CPU_PROVIDER
    gpu = None
    activation_bytes = 0

    def __init__(self, file: Path, *, threads: int = 0, fallback: str | None = None) -> None:
        self.fallback = fallback
        options = _options(threads)
        # The arena would keep the most it ever held, so it gives memory back after each run; runs without an arena take
        # a third more time.
        self._run_options = onnxruntime.RunOptions()
        self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        self._session = _open(file, options, [CPU_PROVIDER])
        self.inputs, self._outputs = _names(self._session)

    def run(self, tensors: Tensors) -> dict[str, npt.NDArray[np.float32]]:
        feeds = {name: tensors[name] for name in self.inputs}
        results = self._session.run(self._outputs, feeds, self._run_options)
        return dict(zip(self._outputs, results, strict=True))


class OrtCudaSession:
    """An ONNX graph in ONNX Runtime's CUDA provider; its inputs are bound to pooled buffers of the GPU.

    All graphs on a GPU compute in one arena, one after the other, each on a stream of its own. BundleError where the
    runtime cannot load the provider.
    """

    provider = CUDA_PROVIDER
    fallback = None
    activation_bytes = 0

    def __init__(self, file: Path, gpu: Gpu, *, threads: int = 0, memory_bytes: int = 0) -> None:
        self.gpu = gpu
        self._owner = file.stem
        options = _options(threads)
        if share_arena(gpu, memory_bytes):
            options.add_session_config_entry("session.use_env_allocators", "1")
            options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
        self._stream = gpu.cuda.stream()
        try:
            providers = [(CUDA_PROVIDER, self._provider_options(memory_bytes)), CPU_PROVIDER]
            self._session = _open(file, options, providers)
            if CUDA_PROVIDER not in self._session.get_providers():
                raise BundleError(f"{file}: ONNX Runtime {onnxruntime.__version__} could not load its CUDA provider")
        except BundleError:
            gpu.cuda.destroy_stream(self._stream)
            raise
        self.inputs, self._outputs = _names(self._session)

    def run(self, tensors: Tensors) -> dict[str, npt.NDArray[np.float32]]:
        with self.gpu.arena_lock, self.gpu.watched():
            try:
                return self._run(tensors)
            except Exception as error:  # the runtime raises its own classes, derived from Exception alone
                if any(words in str(error).lower() for words in _NO_MEMORY) and not isinstance(error, PoolExhausted):
                    raise PoolExhausted(f"{self.gpu.name} has no memory to run {self._owner}: {error}") from error
                raise

    def _run(self, tensors: Tensors) -> dict[str, npt.NDArray[np.float32]]:
        with self.gpu.run_buffers(self._owner, self._stream) as buffers:
            binding = self._session.io_binding()
            for name in self.inputs:
                array = tensors[name]
                address = buffers.upload(array, array.dtype)
                binding.bind_input(name, "cuda", self.gpu.ordinal, array.dtype.type, array.shape, address)
            for name in self._outputs:
                binding.bind_output(name, "cpu")  # the runtime alone knows their shapes
            self._session.run_with_iobinding(binding)
            self.gpu.cuda.synchronize(self._stream)
            return dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))

    def _provider_options(self, memory_bytes: int) -> dict[str, str]:
        limit = {"gpu_mem_limit": str(memory_bytes)} if memory_bytes else {}
        return {
            "device_id": str(self.gpu.ordinal),
            "user_compute_stream": str(self._stream),
            # By default the arena doubles each time it grows, and never shrinks.
            "arena_extend_strategy": "kSameAsRequested",
            # An exhaustive search takes many seconds for every new shape.
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",  # what is certified as float32 must compute in float32
            **limit,
        }


def open_graph(file: Path, *, threads: int, device: Device) -> Session:
    """Open a graph on the GPU of the device where that is possible, else on the CPU.

    BundleError where the device requires its GPU and cannot have it; a warning is logged where a runtime for GPUs is
    installed and the CPU takes its place.
    """
    if device.ordinal is None:
        return OrtSession(file, threads=threads)
    if not _has_cuda():
        if device.required:
            raise BundleError(f"device {device.name} cannot be used for {file.name}: {_NO_PROVIDER}")
        return OrtSession(file, threads=threads)
    try:
        if gpu_at(device.ordinal) is None:
            raise CudaError(f"the driver shows no GPU {device.ordinal}")
        return OrtCudaSession(file, open_gpu(device), threads=threads, memory_bytes=device.memory_bytes)
    except (BundleError, CudaError, MemoryError) as error:
        if device.required:
            raise BundleError(f"device {device.name} cannot be used for {file.name}: {error}") from error
        log.warning("%s runs on the CPU: %s", file.name, error)
        return OrtSession(file, threads=threads, fallback=str(error))


def runs_on_gpu(device: Device) -> bool:
    """True where graphs will run on the GPU of the device, as far as can be told without opening one."""
    return _has_cuda() and device.ordinal is not None and gpu_at(device.ordinal) is not None


def share_arena(gpu: Gpu, memory_bytes: int) -> bool:
    """Let the sessions of this GPU share one arena of at most `memory_bytes` (0: no limit), made at the first call.

    It is as large as the most demanding session needs, where arenas of their own would add up. A session must be done
    with the GPU before the next begins: the arena lends memory that another stream may still be working in (onnxruntime
    issue 32342). Where the runtime makes none, a warning is logged, and each session has an arena of its own.
    """
    if gpu.shares_arena is None:
        kind, place = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
        memory = onnxruntime.OrtMemoryInfo("Cuda", kind, gpu.ordinal, place)
        arena = onnxruntime.OrtArenaCfg({"max_mem": memory_bytes, "arena_extend_strategy": _SAME_AS_REQUESTED})
        gpu.shares_arena = True
        try:
            onnxruntime.create_and_register_allocator_v2(CUDA_PROVIDER, memory, {}, arena)
        except RuntimeError as error:
            log.warning("each graph on %s has an arena of its own, since none can be shared: %s", gpu.name, error)
            gpu.shares_arena = False
    return gpu.shares_arena


def _has_cuda() -> bool:
    return CUDA_PROVIDER in onnxruntime.get_available_providers()


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Shapes vary from request to request: a pattern would be kept for each (onnxruntime issues 13500, 22297).
    options.enable_mem_pattern = False
    # Waiting threads sleep: spinning would take the cores that decode and preprocess the next batch.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _open(file: Path, options: Any, providers: list[Any]) -> Any:
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=providers)
    except Exception as error:  # the runtime raises its own classes, derived from Exception alone
        raise BundleError(f"{file} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {error}") from error


def _names(session: Any) -> tuple[tuple[str, ...], list[str]]:
    """Names of the inputs, and of the outputs."""
    return tuple(entry.name for entry in session.get_inputs()), [entry.name for entry in session.get_outputs()]
