"""A loop in a thread of its own: results, faults and cancellation cross over, and the caller's loop goes on."""

import asyncio
import threading
import time

import pytest

from server.middleware.loop_thread import LoopThread

SOON = 10


def test_coroutine_runs_in_the_thread_and_its_outcome_comes_back():
    async def work():
        return threading.current_thread().name

    async def fail():
        raise ValueError("there")

    async def scene():
        thread = LoopThread("elsewhere")
        assert await thread.run(work()) == "elsewhere"
        with pytest.raises(ValueError, match="there"):
            await thread.run(fail())
        thread.close()
        assert await thread.run(work()) == "elsewhere", "closed, it starts again where it is needed"
        thread.close()

    asyncio.run(scene())


def test_caller_that_leaves_cancels_the_work():
    ended = threading.Event()

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def scene():
        thread = LoopThread("elsewhere")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(thread.run(work()), 0.05)
        assert await asyncio.to_thread(ended.wait, SOON)
        thread.close()

    asyncio.run(scene())


def test_work_that_never_rests_leaves_the_callers_loop_its_turns():
    async def busy():
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            sum(range(1000))

    async def scene():
        thread, turns = LoopThread("elsewhere"), 0
        work = asyncio.ensure_future(thread.run(busy()))
        while not work.done():
            await asyncio.sleep(0.001)
            turns += 1
        thread.close()
        assert turns > 10

    asyncio.run(scene())
