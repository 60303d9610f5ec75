"""TensorRT and TensorRT-RTX engines: one API in two modules, imported by the name in the record of the artefact.

Tested against stand-ins for both modules and for CUDA, in host memory; no engine has run on a GPU yet.
"""

import importlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from server.contract.manifest import Artefact, BundleError
from server.runtimes.base import Tensors
from server.runtimes.device import MODULES, Device
from server.runtimes.engine_stream import EngineStream, LoadedEngine, Shapes
from server.runtimes.gpu import Gpu, open_gpu

log = logging.getLogger(__name__)

# Concurrent runs of one engine: one computes while the inputs or outputs of the other are copied.
MAX_STREAMS = 2


@dataclass(frozen=True)
class IOTensor:
    """An input or output of an engine; `ranges` of an input: its least and largest shape in each profile."""

    name: str
    dtype: np.dtype[Any]
    ranges: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()

    def accepts(self, profile: int, shape: tuple[int, ...]) -> bool:
        """True for a shape within a profile."""
        least, largest = self.ranges[profile]
        return len(shape) == len(least) and all(a <= b <= c for a, b, c in zip(least, shape, largest, strict=True))


class TrtSession:
    """An engine on a GPU.

    ValueError for a shape that no profile has, PoolExhausted where memory is short, DeviceLost for a lost GPU.
    """

    fallback = None

    def __init__(self, gpu: Gpu, engine: LoadedEngine, tensors: Sequence[IOTensor], *, provider: str) -> None:
        self.gpu, self.provider = gpu, provider
        self.activation_bytes = engine.activation_bytes
        self._engine = engine
        self._inputs = [tensor for tensor in tensors if tensor.ranges]
        self._outputs = [tensor for tensor in tensors if not tensor.ranges]
        self.inputs = tuple(tensor.name for tensor in self._inputs)
        self._slots = threading.BoundedSemaphore(MAX_STREAMS)
        self._idle = [EngineStream(gpu, engine)]

    def run(self, tensors: Tensors) -> dict[str, npt.NDArray[np.float32]]:
        arrays = {name: tensors[name] for name in self.inputs}
        shapes = {name: array.shape for name, array in arrays.items()}
        profile = self._profile(shapes)
        with (
            self.gpu.watched(),
            self._engine_stream() as stream,
            self.gpu.run_buffers(self._engine.name, stream.stream) as buffers,
        ):
            addresses = {tensor.name: buffers.upload(arrays[tensor.name], tensor.dtype) for tensor in self._inputs}
            context = stream.context_for(profile, shapes)
            for tensor in self._outputs:
                addresses[tensor.name] = buffers.buffer(context.outputs[tensor.name], tensor.dtype)
            stream.compute(context, addresses)
            views = {
                tensor.name: buffers.download(addresses[tensor.name], context.outputs[tensor.name], tensor.dtype)
                for tensor in self._outputs
            }
            self.gpu.cuda.synchronize(stream.stream)
            return {name: np.array(view, np.float32) for name, view in views.items()}

    def _profile(self, shapes: Shapes) -> int:
        """The first profile that accepts these shapes."""
        count = len(self._inputs[0].ranges)
        for profile in range(count):
            if all(tensor.accepts(profile, shapes[tensor.name]) for tensor in self._inputs):
                return profile
        shown = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"{self._engine.name} accepts no {shown}: none of its {count} profiles has these shapes")

    @contextmanager
    def _engine_stream(self) -> Iterator[EngineStream]:
        """An idle stream, the last used first; a second one is opened only where two runs overlap."""
        with self._slots:
            try:
                stream = self._idle.pop()
            except IndexError:
                stream = EngineStream(self.gpu, self._engine)
            try:
                yield stream
            finally:
                self._idle.append(stream)


def open_engine(file: Path, artefact: Artefact, device: Device) -> TrtSession:
    """Open an engine; BundleError where it cannot be loaded here, with the reason."""
    try:
        trt = importlib.import_module(MODULES[artefact.runtime])
        gpu = open_gpu(device)
        gpu.cuda.use()
        reasons: deque[str] = deque(maxlen=3)
        runtime = trt.Runtime(_logger(trt, reasons))
        engine = _deserialised(trt, runtime, file, artefact, reasons)
        tensors = _io_tensors(trt, engine, file)
        profiles = range(engine.num_optimization_profiles)
        activation_bytes = max(int(engine.get_device_memory_size_for_profile_v2(profile)) for profile in profiles)
        gpu.activations.reserve(activation_bytes)
        loaded = LoadedEngine(
            name=artefact.part,
            keep_alive=(runtime, engine),
            new_context=_context_factory(trt, engine),
            outputs=tuple(tensor.name for tensor in tensors if not tensor.ranges),
            activation_bytes=activation_bytes,
            capture_graphs=not hasattr(trt, "CudaGraphStrategy"),
            reasons=reasons,
        )
        return TrtSession(gpu, loaded, tensors, provider=artefact.runtime)
    except BundleError:
        raise
    except Exception as error:  # the runtime raises its own classes, derived from Exception alone
        raise BundleError(f"{file} cannot be loaded on {device.name}: {error}") from error


def _deserialised(trt: Any, runtime: Any, file: Path, artefact: Artefact, reasons: deque[str]) -> Any:
    """The engine in a file, after all checks that can be made before: loading a wrong one gives obscure errors."""
    record = artefact.engine
    assert record is not None, "a graph is no engine"
    if trt.__version__ != record.version:
        raise BundleError(f"{file} was built by {artefact.runtime} {record.version}, {trt.__version__} is installed")
    data = file.read_bytes()
    if hasattr(runtime, "get_engine_validity"):
        validity, diagnostics = runtime.get_engine_validity(data)
        if validity == trt.EngineValidity.INVALID:
            raise BundleError(
                f"{file} is no engine that {artefact.runtime} {trt.__version__} can run here"
                f" (its diagnostics are {diagnostics})"
            )
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise BundleError(f"{file} cannot be deserialised: {'; '.join(reasons) or 'no reason was given'}")
    if engine.num_optimization_profiles != len(record.profiles):
        raise BundleError(
            f"{file} has {engine.num_optimization_profiles} profiles, its record {len(record.profiles)}: build it again"
        )
    return engine


def _io_tensors(trt: Any, engine: Any, file: Path) -> list[IOTensor]:
    """Inputs and outputs of the engine."""
    tensors = []
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise BundleError(f"{file}: {name} is read on the host, which this server does not support")
        try:
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        except TypeError as error:
            raise BundleError(f"{file}: {name} has a type that numpy lacks: {error}") from None
        ranges = []
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            for profile in range(engine.num_optimization_profiles):
                least, _, largest = engine.get_tensor_profile_shape(name, profile)
                ranges.append((tuple(least), tuple(largest)))
        tensors.append(IOTensor(name, dtype, tuple(ranges)))
    return tensors


def _context_factory(trt: Any, engine: Any) -> Callable[[], Any]:
    """Factory of contexts that are given their memory; TensorRT-RTX is told to capture graphs of its own.

    It alone knows when the kernels that it compiles for a shape have replaced the general ones.
    """
    managed = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not hasattr(trt, "CudaGraphStrategy"):
        return lambda: engine.create_execution_context(managed)
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(managed)
    config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return lambda: engine.create_execution_context(config)


def _logger(trt: Any, reasons: deque[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                reasons.append(message.strip())
                log.error("%s", message.strip())

    return Logger()
