"""Runs an engine on one stream: execution contexts, and CUDA graphs of the shapes that come again.

A graph replays what was recorded: the shapes and addresses of then. So it has a context of its own, whose shapes never
change again, and is replayed only where all buffers lie where they lay; the pool mostly sees to that.
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
# Shapes with a context and a graph of their own, and shapes remembered as met, per lane.
MAX_GRAPHS, REMEMBERED = 16, 64


class EngineFailed(RuntimeError):
    """TensorRT refused or failed a call; the message has its reasons."""


@dataclass(frozen=True)
class LoadedEngine:
    """A deserialised engine with what its lanes need of it.

    `kept`: what has to live as long as its contexts. `activation_bytes`: what they compute in at most. `graphs`:
    whether lanes capture graphs; TensorRT-RTX does so itself. `reasons`: the last errors it logged and that were not
    told yet.
    """

    name: str
    kept: object
    new_context: Callable[[], Any]
    outputs: tuple[str, ...]
    activation_bytes: int
    graphs: bool
    reasons: deque[str]

    def failed(self, what: str) -> Exception:
        """The exception for a call that failed; where memory was short, the batch may still fit in parts."""
        why = "; ".join(self.reasons) or "it gave no reason"
        self.reasons.clear()
        message = f"{self.name}: {what} failed: {why}"
        return PoolExhausted(message) if "out of memory" in why.lower() else EngineFailed(message)


class Context:
    """An execution context, fitted to shapes and bound to buffers; without memory for activations of its own."""

    def __init__(self, loaded: LoadedEngine) -> None:
        self._loaded = loaded
        self._context = loaded.new_context()
        if self._context is None:
            raise loaded.failed("creating an execution context")
        self._profile: int | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.outputs: dict[str, tuple[int, ...]] = {}

    def fit(self, profile: int, shapes: Shapes, stream: int) -> None:
        """Take inputs of these shapes from now on; `outputs` are the shapes of what comes out."""
        if profile == self._profile and shapes == self._shapes:
            return
        self._shapes = {}
        if profile != self._profile:
            self._check(self._context.set_optimization_profile_async(profile, stream), f"choosing profile {profile}")
            self._profile = profile
        for name, shape in shapes.items():
            self._check(self._context.set_input_shape(name, tuple(shape)), f"taking {name} as {tuple(shape)}")
        if unknown := self._context.infer_shapes():
            raise self._loaded.failed(f"inferring shapes from {', '.join(unknown)}")
        self.outputs = {name: tuple(self._context.get_tensor_shape(name)) for name in self._loaded.outputs}
        if open_ended := [name for name, shape in self.outputs.items() if min(shape, default=0) < 0]:
            raise self._loaded.failed(f"telling the shape of {', '.join(open_ended)} before running")
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
        """Whether a run can be recorded, as far as the context tells."""
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or bool(asked(stream))

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise self._loaded.failed(what)


@dataclass
class _Bucket:
    """A context whose shapes stay; `at`: where the buffers of its last run lay, and of `graph`, if it has one."""

    context: Context
    at: tuple[int, ...] = ()
    graph: int | None = None


@dataclass
class EngineStream:
    """A stream with its contexts; one run at a time."""

    gpu: Gpu
    loaded: LoadedEngine
    stream: int = field(init=False)

    def __post_init__(self) -> None:
        self.stream = self.gpu.cuda.stream()
        try:
            self._any_shape = Context(self.loaded)
        except BaseException:
            self.gpu.cuda.destroy_stream(self.stream)
            raise
        self._graphs = self.loaded.graphs
        self._met: OrderedDict[tuple[object, ...], None] = OrderedDict()
        self._buckets: dict[tuple[object, ...], _Bucket] = {}

    def fitted(self, profile: int, shapes: Shapes) -> Context:
        """The context for these shapes, fitted to them."""
        bucket = self._bucket((profile, *shapes.items()))
        context = bucket.context if bucket else self._any_shape
        context.fit(profile, shapes, self.stream)
        return context

    def compute(self, context: Context, addresses: Mapping[str, int]) -> None:
        """Put the run of a fitted context on the stream, when the engine before it has left the activations."""
        bucket = next((bucket for bucket in self._buckets.values() if bucket.context is context), None)
        with self.gpu.activations.turn(self.stream) as activations:
            at = (*addresses.values(), *activations)
            if bucket and bucket.graph is not None and bucket.at == at:
                self.gpu.cuda.launch(bucket.graph, self.stream)
                return
            context.bind(addresses, activations)
            if bucket is None or not self._captured(bucket, at):
                context.execute(self.stream)

    def _bucket(self, key: tuple[object, ...]) -> _Bucket | None:
        """The bucket of shapes that come again, as long as there is room for one more."""
        if key in self._buckets:
            return self._buckets[key]
        again = key in self._met
        self._met[key] = None
        self._met.move_to_end(key)
        if len(self._met) > REMEMBERED:
            self._met.popitem(last=False)
        if not (again and self._graphs and len(self._buckets) < MAX_GRAPHS):
            return None
        try:
            self._buckets[key] = _Bucket(Context(self.loaded))
        except (PoolExhausted, EngineFailed) as error:
            self._give_up(error)
            return None
        return self._buckets[key]

    def _captured(self, bucket: _Bucket, at: tuple[int, ...]) -> bool:
        """Whether the run was recorded, and the graph of it put on the stream.

        A context has to run once at its shapes before it is recorded; and buffers that moved since may move again.
        """
        self._drop(bucket)
        settled, bucket.at = bucket.at == at, at
        if not (settled and self._graphs and bucket.context.capturable(self.stream)):
            return False
        try:
            with self.gpu.cuda.captured(self.stream) as graphs:
                bucket.context.execute(self.stream)
        except (CudaError, MemoryError, EngineFailed, PoolExhausted) as error:
            self._give_up(error)
            return False
        (bucket.graph,) = graphs
        self.gpu.cuda.launch(bucket.graph, self.stream)
        return True

    def _drop(self, bucket: _Bucket) -> None:
        if bucket.graph is not None:
            graph, bucket.graph = bucket.graph, None
            self.gpu.cuda.destroy_graph(graph)

    def _give_up(self, error: Exception) -> None:
        log.warning("%s runs without more CUDA graphs: %s", self.loaded.name, error)
        self._graphs = False
