"""Progress of a thread that runs a model: a run that hangs is told apart from one that is slow, or was suspended."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A run without progress for so long hangs, or for so many times what recent ones took, where that is longer.
HUNG_S, HUNG_RUNS = 120.0, 20
# So much later it is asked again: a process that was stopped (SIGSTOP), or a machine that slept, goes on meanwhile.
CONFIRMED_S = 10.0


class RunProgress:
    """Time since the thread last moved on. `working` and `step` are its own; `hangs` is asked by others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moved: float | None = None  # the last step of the work in progress
        self._longest = 0.0  # between two steps, of late
        self._suspected: tuple[float, float] | None = None  # the step after which nothing came, and when that was seen

    @contextmanager
    def working(self) -> Iterator[None]:
        """Be at work for the block."""
        self._moved = self._clock()
        try:
            yield
            self.step()
        finally:
            self._moved = None

    def step(self) -> None:
        """Have finished a part of the work."""
        if self._moved is not None:
            now = self._clock()
            self._longest = max(0.9 * self._longest, now - self._moved)
            self._moved = now

    def hangs(self) -> bool:
        """True where the work in progress has stopped, and still had when it was asked again CONFIRMED_S later."""
        moved, now = self._moved, self._clock()
        if moved is None or now - moved < max(HUNG_S, HUNG_RUNS * self._longest):
            self._suspected = None
            return False
        if self._suspected is None or self._suspected[0] != moved:
            self._suspected = moved, now
        return now - self._suspected[1] >= CONFIRMED_S
