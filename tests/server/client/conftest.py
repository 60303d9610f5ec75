"""Both clients before a server of a few lines, and a clock that nobody waits for."""

import asyncio
import functools

import httpx
import pytest

from server.client import AsyncClient, Client, Clock

DOG = {"box": [10.0, 20.5, 40.25, 60.0], "label": "dog", "label_id": 1, "score": 0.75, "matched": [[0, 3]]}
MODEL = {"name": "fake", "family": "grounding_dino", "version": "1"}
MEMORY = {"limit_bytes": None, "total_bytes": 1, "process_bytes": 0, "pool_bytes": 0, "prompt_cache_bytes": 0}


class FakeClock(Clock):
    """Sleeping takes no time and is written down in `slept`; chance is always `luck`."""

    def __init__(self):
        self.time, self.slept, self.luck = 1000.0, [], 0.0

    def monotonic(self):
        return self.time

    def now(self):
        return 1_800_000_000 + self.time

    def chance(self):
        return self.luck

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds

    async def sleep_async(self, seconds):
        self.sleep(seconds)


class FromTasks:
    """An AsyncClient with the methods of a Client."""

    def __init__(self, *args, **options):
        self.client = AsyncClient(*args, **options)

    def __getattr__(self, name):
        def call(*args, **options):
            return asyncio.run(getattr(self.client, name)(*args, **options))

        return functools.wraps(getattr(self.client, name))(call)


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture(params=[Client, FromTasks], ids=["sync", "async"])
def connect(request, clock):
    """Makes a client of `server`, a function from a request to a response."""

    def make(server, **options):
        return request.param(
            "http://openset.test:8000", transport=httpx.MockTransport(server), clock=clock, **options
        )  # fmt: skip

    return make


def models_answer(**limits):
    return httpx.Response(200, json={"models": [], "limits": limits, "memory": MEMORY})


def problem(status, slug="queue-full", *, headers=None, **members):
    document = {"type": f"urn:openset:problem:{slug}", "title": "A title", "status": status, "detail": "a detail"}
    return httpx.Response(
        status, json=document | members, headers={"Content-Type": "application/problem+json"} | (headers or {})
    )
