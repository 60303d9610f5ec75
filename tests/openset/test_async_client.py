"""The client for asyncio beyond what it shares with the blocking one, which the tests of both cover."""

import asyncio
import threading
import time

import httpx
import pytest

from openset import AsyncClient, ProblemError

from .conftest import models_answer, problem


def test_async_client_prepares_images_off_the_loop(monkeypatch):
    threads = []

    def encoded(image):
        threads.append(threading.current_thread())
        return b"x"

    monkeypatch.setattr("openset.vision_call.encoded", encoded)

    async def ask():
        transport = httpx.MockTransport(lambda request: problem(422))
        async with AsyncClient("http://a.test", transport=transport) as client:
            await client.detect(b"x", labels="dog")

    with pytest.raises(ProblemError):
        asyncio.run(ask())
    assert threads != []
    assert threading.main_thread() not in threads


def test_cancelled_call_waits_no_longer():
    async def ask():
        transport = httpx.MockTransport(lambda request: problem(503, headers={"Retry-After": "30"}))
        async with AsyncClient("http://a.test", transport=transport) as client, asyncio.timeout(0.1):
            await client.models()

    with pytest.raises(TimeoutError):
        asyncio.run(ask())


def test_waiting_between_attempts_leaves_the_loop_free():
    answers = iter([problem(503, headers={"Retry-After": "0"}), models_answer()])
    ticks = []

    async def tick():
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def ask():
        ticking = asyncio.create_task(tick())
        transport = httpx.MockTransport(lambda request: next(answers))
        async with AsyncClient("http://a.test", transport=transport) as client:
            await client.models()
        ticking.cancel()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("openset.retries.random.random", lambda: 0.2)  # 0.1 s
        asyncio.run(ask())
    assert len(ticks) > 3
