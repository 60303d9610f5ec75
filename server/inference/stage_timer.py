"""How far one request has come, and how long each stage took."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager

from server.inference.batching import Done
from server.registry.model_registry import ModelOutput
from server.telemetry.tracing import Attribute, Link, Trace


class StageTimer:
    """Where a request stands: seconds by stage, and what it would be cancelled in."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._started = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._queued: list[Future[Done[ModelOutput]]] = []

    def took(
        self,
        stage: str,
        seconds: float,
        *,
        ended: float,
        attributes: Mapping[str, Attribute] | None = None,
        to: Link = None,
    ) -> None:
        """Note a stage's time, for the trace also when it ended; of several images the slowest counts."""
        self._seconds[stage] = max(self._seconds.get(stage, 0.0), seconds)
        self._trace.stage(stage, ended - seconds, ended, attributes, to)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note how long the block takes."""
        started = time.monotonic()
        yield
        ended = time.monotonic()
        self.took(stage, ended - started, ended=ended)

    def queued(self, future: "Future[Done[ModelOutput]]") -> None:
        """Note an image that waits for its run."""
        self._queued.append(future)

    @property
    def stage(self) -> str:
        """What is waited for: "prepare" until an image is queued, then "queue", "infer" once one has begun to run."""
        if not self._queued:
            return "prepare"
        begun = any(future.running() or (future.done() and not future.cancelled()) for future in self._queued)
        return "infer" if begun else "queue"

    def timings_ms(self) -> dict[str, float]:
        """Milliseconds of all stages so far, and in total."""
        seconds = self._seconds | {"total": time.monotonic() - self._started}
        return {stage: round(value * 1000, 3) for stage, value in seconds.items()}
