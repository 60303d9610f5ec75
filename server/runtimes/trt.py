"""TensorRT and TensorRT-RTX engines: one API in two modules, imported by the name that the artefact's record gives.

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
from server.runtimes.artefact_selection import MODULES
from server.runtimes.base import Tensors
from server.runtimes.device import Device
from server.runtimes.engine_stream import EngineStream, LoadedEngine, Shapes
from server.runtimes.gpu import Gpu, open_gpu

log = logging.getLogger(__name__)

# Runs of one engine that may be under way: one computes while the other's inputs or outputs are copied.
LANES = 2


@dataclass(frozen=True)
class Port:
    """An input or output of an engine; `ranges`: of an input, its least and largest shape in each profile."""

    name: str
    dtype: np.dtype[Any]
    ranges: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = ()

    def takes(self, profile: int, shape: tuple[int, ...]) -> bool:
        """Whether a shape is within a profile."""
        least, largest = self.ranges[profile]
        return len(shape) == len(least) and all(a <= b <= c for a, b, c in zip(least, shape, largest, strict=True))


class TrtSession:
    """An engine on a GPU.

    A shape that no profile has is a ValueError, memory that is not there PoolExhausted, a lost GPU DeviceLost.
    """

    fallback = None

    def __init__(self, gpu: Gpu, loaded: LoadedEngine, ports: Sequence[Port], *, provider: str) -> None:
        self.gpu, self.provider = gpu, provider
        self.activation_bytes = loaded.activation_bytes
        self._loaded = loaded
        self._taken = [port for port in ports if port.ranges]
        self._given = [port for port in ports if not port.ranges]
        self._places = threading.BoundedSemaphore(LANES)
        self._idle = [EngineStream(gpu, loaded)]

    @property
    def inputs(self) -> tuple[str, ...]:
        return tuple(port.name for port in self._taken)

    def run(self, tensors: Tensors) -> dict[str, npt.NDArray[np.float32]]:
        arrays = {name: tensors[name] for name in self.inputs}
        shapes = {name: array.shape for name, array in arrays.items()}
        profile = self._profile(shapes)
        with self.gpu.watched(), self._lane() as lane, self.gpu.loan(self._loaded.name, lane.stream) as loan:
            addresses = {port.name: loan.upload(arrays[port.name], port.dtype) for port in self._taken}
            context = lane.fitted(profile, shapes)
            for port in self._given:
                addresses[port.name] = loan.buffer(context.outputs[port.name], port.dtype)
            lane.compute(context, addresses)
            views = {
                port.name: loan.download(addresses[port.name], context.outputs[port.name], port.dtype)
                for port in self._given
            }
            self.gpu.cuda.synchronize(lane.stream)
            return {name: np.array(view, np.float32) for name, view in views.items()}

    def _profile(self, shapes: Shapes) -> int:
        """The first profile that takes these shapes."""
        count = len(self._taken[0].ranges)
        for profile in range(count):
            if all(port.takes(profile, shapes[port.name]) for port in self._taken):
                return profile
        shown = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise ValueError(f"{self._loaded.name} takes no {shown}: none of its {count} profiles has these shapes")

    @contextmanager
    def _lane(self) -> Iterator[EngineStream]:
        """A lane that is free, the last used first; a second one only where two runs meet."""
        with self._places:
            try:
                lane = self._idle.pop()
            except IndexError:
                lane = EngineStream(self.gpu, self._loaded)
            try:
                yield lane
            finally:
                self._idle.append(lane)


def open_engine(file: Path, artefact: Artefact, device: Device) -> TrtSession:
    """The session of an engine; BundleError where it cannot be loaded here, with the reason."""
    try:
        trt = importlib.import_module(MODULES[artefact.runtime])
        gpu = open_gpu(device)
        gpu.cuda.use()
        reasons: deque[str] = deque(maxlen=3)
        runtime = trt.Runtime(_logger(trt, reasons))
        engine = _deserialised(trt, runtime, file, artefact, reasons)
        ports = _ports(trt, engine, file)
        activation_bytes = _activation_bytes(engine)
        gpu.activations.reserve(activation_bytes)
        loaded = LoadedEngine(
            name=artefact.part,
            kept=(runtime, engine),
            new_context=_context_maker(trt, engine),
            outputs=tuple(port.name for port in ports if not port.ranges),
            activation_bytes=activation_bytes,
            graphs=not hasattr(trt, "CudaGraphStrategy"),
            reasons=reasons,
        )
        return TrtSession(gpu, loaded, ports, provider=artefact.runtime)
    except BundleError:
        raise
    except Exception as error:  # the runtime raises its own classes; whatever it is, this engine does not serve
        raise BundleError(f"{file} cannot be loaded on {device.name}: {error}") from error


def _deserialised(trt: Any, runtime: Any, file: Path, artefact: Artefact, reasons: deque[str]) -> Any:
    """The engine in a file, after what can be checked before: whoever loads the wrong one gets obscure errors."""
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


def _ports(trt: Any, engine: Any, file: Path) -> list[Port]:
    """The engine's inputs and outputs."""
    ports = []
    for name in map(engine.get_tensor_name, range(engine.num_io_tensors)):
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise BundleError(f"{file}: {name} is read on the host, which this server does not do")
        try:
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        except TypeError as error:
            raise BundleError(f"{file}: {name} has a type that numpy has not: {error}") from None
        taken = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        ports.append(Port(name, dtype, _ranges(engine, name) if taken else ()))
    return ports


def _ranges(engine: Any, name: str) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    ranges = []
    for profile in range(engine.num_optimization_profiles):
        least, _, largest = engine.get_tensor_profile_shape(name, profile)
        ranges.append((tuple(least), tuple(largest)))
    return tuple(ranges)


def _activation_bytes(engine: Any) -> int:
    """What any of its profiles needs to compute in."""
    return max(
        int(engine.get_device_memory_size_for_profile_v2(profile))
        for profile in range(engine.num_optimization_profiles)
    )


def _context_maker(trt: Any, engine: Any) -> Callable[[], Any]:
    """What makes contexts that are given their memory; TensorRT-RTX is told to capture graphs of its own.

    It alone knows when the kernels that it compiles for a shape have taken the place of the general ones.
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
