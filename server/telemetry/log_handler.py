"""Log lines to standard error that hold up nobody: those that cannot be written are counted, those that repeat cut.

A full disk, a closed pipe or a reader that has stopped must not end or block a thread of the server, and a client that
can cause a line must not be able to fill a disk with it.
"""

import contextlib
import io
import logging
import os
import select
import threading
import time
from typing import TextIO

BURST, PERIOD_S = 20, 10.0  # lines of one kind, and the time in which no more of it are written
_MAX_KINDS = 1000


class StderrHandler(logging.Handler):
    """Writes lines to a stream without waiting for it."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self.lost = 0  # lines since the last that was written
        try:
            self._descriptor: int | None = stream.fileno()
        except (OSError, ValueError, io.UnsupportedOperation):  # a stream in memory
            self._descriptor = None

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
            if self.lost:
                line = f"({self.lost} lines were lost: they could not be written)\n{line}"
            self._write(line)
        except Exception:  # also a fault of a caller's format: a line in the log is worth no request
            self.lost += 1
        else:
            self.lost = 0

    def _write(self, line: str) -> None:
        if self._descriptor is None:
            self._stream.write(line)
            return
        data = line.encode(errors="backslashreplace")
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        while data:
            # A pipe that is ready takes PIPE_BUF bytes at once; more could block.
            if not ready.poll(0):
                raise BlockingIOError
            data = data[os.write(self._descriptor, data[: select.PIPE_BUF]) :]


class RepeatFilter(logging.Filter):
    """Lets BURST lines of a kind pass in a PERIOD_S, and tells how many more there were; `exempt` names a logger."""

    def __init__(self, *, exempt: str) -> None:
        super().__init__()
        self._exempt, self._lock = exempt, threading.Lock()
        self._kinds: dict[tuple[object, ...], tuple[float, int]] = {}  # start of the period, lines in it

    def filter(self, record: logging.LogRecord) -> bool:
        """False for a line to leave out."""
        if record.name == self._exempt:
            return True
        now = time.monotonic()
        cause = record.exc_info[0] if record.exc_info else None
        kind = record.name, record.levelno, str(record.msg)[:200], cause
        with self._lock:
            started, count = self._kinds.get(kind, (now, 0))
            more = max(0, count - BURST)
            if now - started > PERIOD_S:
                started, count = now, 0
            else:
                more = 0
            if kind not in self._kinds and len(self._kinds) >= _MAX_KINDS:
                self._kinds.clear()
            self._kinds[kind] = started, count + 1
        if more:
            with contextlib.suppress(Exception):
                record.msg, record.args = f"{record.getMessage()} ({more} more like this were left out)", None
        return count < BURST


def cut(text: str, limit: int, *, keep_end: bool = False) -> str:
    """`text` without what is beyond `limit` characters, from the end or, with `keep_end`, from the start."""
    if len(text) <= limit:
        return text
    left_out = f"… ({len(text) - limit} characters left out)"
    return f"{left_out}\n{text[-limit:]}" if keep_end else text[:limit] + left_out
