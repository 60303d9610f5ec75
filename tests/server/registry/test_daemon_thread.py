"""Slow work in daemon threads, which neither delays the end of a process nor aborts it."""

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from server.registry.daemon_thread import any_daemon_thread, in_daemon_thread

ROOT = Path(__file__).parents[3]


def test_result_and_error_are_those_of_the_function():
    assert asyncio.run(in_daemon_thread(lambda: threading.current_thread().name, name="work")) == "work"
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_daemon_thread(lambda: 1 / 0, name="work"))


def test_function_goes_on_where_its_caller_is_cancelled():
    go, done = threading.Event(), threading.Event()

    def work():
        go.wait(10)
        done.set()

    async def cancelled():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(in_daemon_thread(work, name="work"), 0.01)
        assert any_daemon_thread()

    asyncio.run(cancelled())
    go.set()
    assert done.wait(10)


def test_process_ends_with_its_status_and_its_output_beside_a_thread_that_runs():
    code = """
import threading, time
from server.registry.daemon_thread import end_process
threading.Thread(target=time.sleep, args=(60,)).start()
print("told", end="")
end_process(3)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout) == (3, "told")
