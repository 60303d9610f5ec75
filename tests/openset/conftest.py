"""Both clients with a server of a few lines behind them, and a clock that nobody waits for."""

import asyncio
import functools
import json
from email import message_from_bytes
from email.policy import HTTP

import httpx
import pytest

from openset import AsyncClient, Client

DOG = {"box": [10.0, 20.5, 40.25, 60.0], "label": "dog", "label_id": 1, "score": 0.75, "matched": [[0, 3]]}
MODEL = {"name": "fake", "family": "grounding_dino", "version": "1"}
MEMORY = {"limit_bytes": None, "total_bytes": 1, "process_bytes": 0, "pool_bytes": 0, "prompt_cache_bytes": 0}


class FakeClock:
    """Time and chance of the retries: sleeping takes no time and is recorded in `slept`; chance is always `luck`."""

    def __init__(self):
        self.elapsed, self.slept, self.luck = 1000.0, [], 0.0

    def monotonic(self):
        return self.elapsed

    def time(self):
        return 1_800_000_000 + self.elapsed

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.elapsed += seconds

    async def sleep_async(self, seconds):
        self.sleep(seconds)

    def random(self):
        return self.luck


class FromTasks:
    """An AsyncClient with the methods of a Client."""

    def __init__(self, *args, **options):
        self.client = AsyncClient(*args, **options)

    def __getattr__(self, name):
        def call(*args, **options):
            return asyncio.run(getattr(self.client, name)(*args, **options))

        return functools.wraps(getattr(self.client, name))(call)


@pytest.fixture
def clock(monkeypatch):
    clock = FakeClock()
    for name in (
        "tenacity.time",
        "tenacity.nap.time",
        "openset.retries.time",
        "openset.retries.random",
        "openset.client.time",
    ):
        monkeypatch.setattr(name, clock)
    monkeypatch.setattr("openset.retries.random", clock)
    monkeypatch.setattr("asyncio.sleep", clock.sleep_async)
    return clock


@pytest.fixture(params=[Client, FromTasks], ids=["sync", "async"])
def connect(request, clock):
    """Makes a client of `server`, a function from a request to a response."""

    def make(server, **options):
        return request.param("http://openset.test:8000", transport=httpx.MockTransport(server), **options)

    return make


def models_answer(**limits):
    return httpx.Response(200, json={"models": [], "limits": limits, "memory": MEMORY})


def problem(status, slug="queue-full", *, headers=None, **members):
    document = {"type": f"urn:openset:problem:{slug}", "title": "A title", "status": status, "detail": "a detail"}
    return httpx.Response(
        status, json=document | members, headers={"Content-Type": "application/problem+json"} | (headers or {})
    )


def fields_of(request):
    """(name, content) of each part of a form, or the members of a JSON body."""
    content = request.read()
    if request.headers["content-type"] == "application/json":
        return json.loads(content)
    head = f"Content-Type: {request.headers['content-type']}\r\n\r\n".encode()
    parts = message_from_bytes(head + content, policy=HTTP).iter_parts()
    return [(part.get_param("name", header="content-disposition"), part.get_payload(decode=True)) for part in parts]


class Recorder:
    """A server that answers each image with its own bytes, and keeps the requests."""

    def __init__(self, **limits):
        self.limits, self.requests, self.models = limits, [], [MODEL]

    def __call__(self, request):
        self.requests.append(request)
        path = request.url.path.rpartition("/")[2]
        if path == "models":
            return models_answer(**self.limits)
        fields = fields_of(request)
        if isinstance(fields, dict):
            images = [url.encode() for url in fields.get("image_urls", ())]
        else:
            images = [content for name, content in fields if name == "image"]
        problems = [
            {
                "index": index,
                "type": "urn:openset:problem:broken-image",
                "title": "An image cannot be decoded",
                "status": 422,
                "detail": f"image {index + 1} of {len(images)} is damaged"
                if len(images) > 1
                else "the image is damaged",
            }
            for index, image in enumerate(images)
            if image == b"bad"
        ]
        if problems and dict(fields).get("on_error") not in (b"skip", "skip"):
            return httpx.Response(422, json=problems[0], headers={"Content-Type": "application/problem+json"})
        images = [b"-1" if image == b"bad" else image for image in images]
        model = self.models[min(len(self.asked), len(self.models)) - 1]
        answer = {"model": model, "timings_ms": {"total": 1.5}} | getattr(self, path)(images)
        return httpx.Response(200, json=answer | ({"problems": problems} if problems else {}))

    @property
    def asked(self):
        """The requests with images."""
        return [request for request in self.requests if request.method == "POST"]

    @property
    def counts(self):
        """How many images each request had."""
        return [len(self.images(request)) for request in self.asked]

    def images(self, request):
        fields = fields_of(request)
        return fields["image_urls"] if isinstance(fields, dict) else [c for name, c in fields if name == "image"]

    def detect(self, images):
        results = [{"width": 1, "height": 1, "labels": [image.decode()], "detections": [DOG]} for image in images]
        return {"results": results}

    def classify(self, images):
        return {"results": [{"scores": [{"label": image.decode(), "label_id": 0, "score": 1.0}]} for image in images]}

    def embed(self, images):
        return {"images": [[float(image)] for image in images], "texts": [[2.0]]}

    def similarity(self, images):
        numbers = [[float(image)] for image in images]
        return {"similarity": numbers, "logit_scale": 9, "embeddings": {"images": numbers, "texts": [[1.0]]}}
