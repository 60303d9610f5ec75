"""SIGTERM and SIGINT of `openset serve`: from the first line of the process to its last, each ends it with status 0.

The standard library only, and little of it: this is imported before everything else, since a signal that comes earlier
kills the process by Python's or the system's default.
"""

import os
import signal
import sys


def _end(*_: object) -> None:
    # Not by an exception: libraries being imported may catch it, and the runtime aborts when it is unloaded in use.
    os._exit(0)


if sys.argv[1:2] == ["serve"]:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)

# isort: split
import threading  # noqa: E402 (these take longer than all above)
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402

# Signals closer together are one wish: a terminal and a wrapper may both pass on one Ctrl-C.
REPEAT_S = 1.0


class StopSignals:
    """Handlers of SIGTERM and SIGINT, which do what the stage of the process asks for.

    At first a signal ends the process at once, since nothing has been accepted that could be lost; `leading_to` hands
    it to a stage that can end by itself. A signal more than REPEAT_S after the first ends the process there too.
    """

    def __init__(self) -> None:
        self.requested = False
        self._first: float | None = None
        self._stop: Callable[[], object] = _end

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Take over both signals; no effect outside the main thread, which alone receives them."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def leading_to(self, stop: Callable[[], object]) -> Iterator[None]:
        """Call `stop`, which must return at once, on a signal in the meantime."""
        before, self._stop = self._stop, stop
        try:
            yield
        finally:
            self._stop = before

    def _receive(self, *_: object) -> None:
        now = time.monotonic()
        self.requested = True
        self._first = now if self._first is None else self._first
        if now - self._first > REPEAT_S:
            _end()
        self._stop()


STOP = StopSignals()
