"""One CUDA stream that runs an engine: execution contexts, and CUDA graphs of shapes that recur.

A graph replays a recorded run, with its shapes and addresses. So it has a context of its own, whose shapes never change
again, and is replayed only where all buffers are where they were; the pool mostly sees to that.
"""

import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.memory.cuda import CudaError
from server.memory.pool import PoolExhausted
from server.runtimes.gpu import Gpu

log = logging.getLogger(__name__)

Shapes = Mapping[str, tuple[int, ...]]
# Per stream: shapes with a context and a graph of their own, and shapes remembered as seen once.
MAX_GRAPHS, MAX_SEEN = 16, 64


class EngineFailed(RuntimeError):
    """A call that TensorRT refused or failed; the message has its reasons."""


@dataclass(frozen=True)
class LoadedEngine:
    """A deserialised engine with what its streams need of it.

    keep_alive: objects that must outlive its contexts; activation_bytes: the most they compute in; capture_graphs:
    whether streams capture CUDA graphs (TensorRT-RTX does so itself); reasons: the last errors it logged and nobody has
    reported yet.
    """

    name: str
    keep_alive: object
    new_context: Callable[[], Any]
    outputs: tuple[str, ...]
    activation_bytes: int
    capture_graphs: bool
    reasons: deque[str]

    def error(self, action: str) -> Exception:
        """Exception for a failed call; PoolExhausted where memory was short, since half the batch may still fit."""
        why = "; ".join(self.reasons) or "it gave no reason"
        self.reasons.clear()
        message = f"{self.name}: {action} failed: {why}"
        return PoolExhausted(message) if "out of memory" in why.lower() else EngineFailed(message)


class Context:
    """An execution context, set to shapes and bound to buffers; without memory for activations of its own."""

    def __init__(self, engine: LoadedEngine) -> None:
        self._engine = engine
        self._context = engine.new_context()
        if self._context is None:
            raise engine.error("creating an execution context")
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.outputs: dict[str, tuple[int, ...]] = {}

    def set_shapes(self, profile: int, shapes: Shapes, stream: int) -> None:
        """Take inputs of these shapes from now on; `outputs` are the resulting shapes."""
        if profile == self._profile and shapes == self._shapes:
            return
        self._shapes = {}
        if profile != self._profile:
            self._check(self._context.set_optimization_profile_async(profile, stream), f"choosing profile {profile}")
            self._profile = profile
        for name, shape in shapes.items():
            self._check(self._context.set_input_shape(name, tuple(shape)), f"taking {name} as {tuple(shape)}")
        if unknown := self._context.infer_shapes():
            raise self._engine.error(f"inferring shapes from {', '.join(unknown)}")
        self.outputs = {name: tuple(self._context.get_tensor_shape(name)) for name in self._engine.outputs}
        if open_ended := [name for name, shape in self.outputs.items() if min(shape, default=0) < 0]:
            raise self._engine.error(f"inferring the shape of {', '.join(open_ended)} before running")
        self._shapes = dict(shapes)

    def bind(self, addresses: Mapping[str, int], activations: tuple[int, int]) -> None:
        """Read and write at these addresses."""
        for name, address in addresses.items():
            self._check(self._context.set_tensor_address(name, address), f"binding {name}")
        self._context.set_device_memory(*activations)

    def execute(self, stream: int) -> None:
        """Put a run on the stream."""
        self._check(self._context.execute_async_v3(stream), "running")

    def capturable(self, stream: int) -> bool:
        """True where a run can be captured, as far as the context reports it."""
        is_capturable = getattr(self._context, "is_stream_capturable", None)
        return is_capturable is None or bool(is_capturable(stream))

    def _check(self, done: bool, action: str) -> None:
        if not done:
            raise self._engine.error(action)


@dataclass
class _FixedContext:
    """A context whose shapes stay, with the addresses of its last run, and the graph of that run if it has one."""

    context: Context
    addresses: tuple[int, ...] = ()
    graph: int | None = None


@dataclass
class EngineStream:
    """A stream with its contexts; one run at a time."""

    gpu: Gpu
    engine: LoadedEngine
    stream: int = field(init=False)

    def __post_init__(self) -> None:
        self.stream = self.gpu.cuda.stream()
        try:
            self._any_shape = Context(self.engine)
        except BaseException:
            self.gpu.cuda.destroy_stream(self.stream)
            raise
        self._capture_graphs = self.engine.capture_graphs
        self._seen: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._fixed: dict[tuple[object, ...], _FixedContext] = {}

    def context_for(self, profile: int, shapes: Shapes) -> Context:
        """The context for these shapes, set to them."""
        fixed = self._fixed_context((profile, *shapes.items()))
        context = fixed.context if fixed else self._any_shape
        context.set_shapes(profile, shapes, self.stream)
        return context

    def compute(self, context: Context, addresses: Mapping[str, int]) -> None:
        """Put a run of the context on the stream, after the engine before it is done with the activation memory."""
        fixed = next((fixed for fixed in self._fixed.values() if fixed.context is context), None)
        with self.gpu.activations.exclusive(self.stream) as activations:
            used = (*addresses.values(), *activations)
            if fixed and fixed.graph is not None and fixed.addresses == used:
                self.gpu.cuda.launch(fixed.graph, self.stream)
                return
            context.bind(addresses, activations)
            if fixed is None or not self._captured(fixed, used):
                context.execute(self.stream)

    def _fixed_context(self, key: tuple[object, ...]) -> _FixedContext | None:
        """The context kept for these shapes, made when they recur and there is room for one more."""
        if key in self._fixed:
            return self._fixed[key]
        recurs = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > MAX_SEEN:
            self._seen.popitem(last=False)
        if not (recurs and self._capture_graphs and len(self._fixed) < MAX_GRAPHS):
            return None
        try:
            self._fixed[key] = _FixedContext(Context(self.engine))
        except (PoolExhausted, EngineFailed) as error:
            self._stop_capturing(error)
            return None
        return self._fixed[key]

    def _captured(self, fixed: _FixedContext, addresses: tuple[int, ...]) -> bool:
        """Capture the run and launch its graph on the stream; False where it cannot be captured.

        A context must run once at its shapes before it is captured, and buffers that moved since may move again.
        """
        if fixed.graph is not None:
            graph, fixed.graph = fixed.graph, None
            self.gpu.cuda.destroy_graph(graph)
        settled, fixed.addresses = fixed.addresses == addresses, addresses
        if not (settled and self._capture_graphs and fixed.context.capturable(self.stream)):
            return False
        try:
            with self.gpu.cuda.captured(self.stream) as graphs:
                fixed.context.execute(self.stream)
        except (CudaError, MemoryError, EngineFailed, PoolExhausted) as error:
            self._stop_capturing(error)
            return False
        (fixed.graph,) = graphs
        self.gpu.cuda.launch(fixed.graph, self.stream)
        return True

    def _stop_capturing(self, error: Exception) -> None:
        log.warning("%s captures no more CUDA graphs: %s", self.engine.name, error)
        self._capture_graphs = False
