"""Daemon threads for slow work, and the end of a process in which a thread still runs."""

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NoReturn, TypeVar

T = TypeVar("T")


class _DaemonThread(threading.Thread):
    """Thread of `in_daemon_thread`, to be told apart from those of libraries."""


async def in_daemon_thread(function: Callable[[], T], *, name: str) -> T:
    """The result of `function`, run in a thread of its own, which goes on where the caller is cancelled.

    asyncio's own threads are joined at the end of the process, which a loading model would delay.
    """
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # from here on it cannot be cancelled

    def run() -> None:
        try:
            result = function()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)

    _DaemonThread(target=run, name=name, daemon=True).start()
    return await asyncio.wrap_future(outcome)


def any_daemon_thread() -> bool:
    """True while a function of `in_daemon_thread` runs."""
    return any(isinstance(thread, _DaemonThread) for thread in threading.enumerate())


def end_process(status: int) -> NoReturn:
    """End the process without waiting for its threads.

    An ordinary end joins them, or unloads the runtime while one is inside it, which aborts the process (SIGABRT).
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
