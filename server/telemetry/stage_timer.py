"""Stage times of one request: observed once, for its answer, the Server-Timing header, its trace and the metrics."""

import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from prometheus_client import Histogram

from server.telemetry.tracing import Attribute, Link, Trace

# Measured before the models see the request: in the header, not in the answer.
FETCH = "fetch"


class StageTimer:
    """Seconds by stage, of several images the slowest. Used from the event loop's thread only, hence no lock."""

    def __init__(self, trace: Trace | None = None) -> None:
        self.trace = trace or Trace()
        self._started = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._descriptions: dict[str, str] = {}
        self._queued: list[Future[Any]] = []

    def observe(
        self,
        stage: str,
        started: float,
        ended: float,
        histogram: Histogram | None = None,
        *,
        attributes: Mapping[str, Attribute] | None = None,
        link: Link = None,
        description: str = "",
    ) -> None:
        """Record a stage that ran from `started` to `ended` (`time.monotonic`); its span gets the `attributes`.

        description: for the header alone, without quotes.
        """
        seconds = ended - started
        if seconds >= self._seconds.get(stage, 0.0):
            self._seconds[stage], self._descriptions[stage] = seconds, description
        self.trace.stage(stage, started, ended, attributes, link)
        if histogram:
            histogram.observe(seconds)

    @contextmanager
    def timed(self, stage: str, histogram: Histogram | None = None) -> Iterator[None]:
        """Record the block as a stage; one that fails counts in the `histogram` alone."""
        started = time.monotonic()
        try:
            yield
        except BaseException:
            if histogram:
                histogram.observe(time.monotonic() - started)
            raise
        self.observe(stage, started, time.monotonic(), histogram)

    @contextmanager
    def total(self) -> Iterator[None]:
        """Record the block as the `total`."""
        self._started = time.monotonic()
        try:
            yield
        finally:
            self._seconds["total"] = time.monotonic() - self._started

    def queued(self, future: "Future[Any]") -> None:
        """Add the future of an image that waits for its run."""
        self._queued.append(future)

    @property
    def current_stage(self) -> str:
        """The stage that is waited for: "prepare" until an image is queued, "queue", "infer" once one has begun."""
        if not self._queued:
            return "prepare"
        begun = any(future.running() or (future.done() and not future.cancelled()) for future in self._queued)
        return "infer" if begun else "queue"

    def timings_ms(self) -> dict[str, float]:
        """Milliseconds by stage and so far in `total`, for the answer."""
        seconds = self._seconds | {"total": time.monotonic() - self._started}
        return {stage: round(value * 1000, 3) for stage, value in seconds.items() if stage != FETCH}

    def server_timing(self) -> str:
        """Value of the Server-Timing header; empty where no stage was recorded."""
        return ", ".join(self._entry(stage, value) for stage, value in self._seconds.items())

    def _entry(self, stage: str, seconds: float) -> str:
        description = self._descriptions.get(stage)
        return f"{stage};dur={round(seconds * 1000, 3):g}" + (f';desc="{description}"' if description else "")
