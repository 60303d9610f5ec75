"""Open-loop traffic: requests arrive when they would, however long the server takes for those before.

A client that waits for an answer before it asks again asks less when the server is slow, and so never sees the queue
that real users would (coordinated omission). Latency counts from the moment a request should have been sent.
"""

import asyncio
import random
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import httpx

from openset import endpoints
from openset.splitting import Limits
from openset.vision_call import VisionAnswer, VisionCall

# No answer is better than one after so long, or one of so many bytes: each waiting request holds a connection.
TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 32 * 2**20
_TIMING = re.compile(r"([\w-]+);dur=(\d{1,9}(?:\.\d{1,9})?)\b")
_RUN = re.compile(r'\binfer;dur=[\d.]+;desc="(\d{1,4}) of ([\w.-]{1,100})"')
_MOST_LABELS = 8  # of one request, where many are given


@dataclass(frozen=True)
class Arrival:
    """A request: `at` seconds from the start, about a picture (by index) and some labels."""

    at: float
    picture: int
    labels: tuple[str, ...]


@dataclass(frozen=True)
class RequestOutcome:
    """The outcome of a request: a status, or the name of the error in its place.

    late_s: from when it should have been sent, `at`, until it was; seconds: until its answer was read, `late_s`
    included; stages_ms: the server's own times by stage; batch: images in its run, 0 if unknown, all of one `shape`.
    """

    outcome: str
    late_s: float
    seconds: float
    stages_ms: dict[str, float] = field(default_factory=dict)
    at: float = 0.0
    batch: int = 0
    shape: str = ""


def arrivals(rate: float, seconds: float, *, pictures: int, labels: Sequence[str], seed: int) -> Iterator[Arrival]:
    """Poisson arrivals of `rate` a second; each takes one of `pictures` and up to eight of the labels, at random."""
    chance, at = random.Random(seed), 0.0
    while (at := at + chance.expovariate(rate)) < seconds:
        count = chance.randint(1, min(len(labels), _MOST_LABELS))
        yield Arrival(at, chance.randrange(pictures), tuple(chance.sample(labels, count)))


class OpenLoop:
    """Sends arrivals to a server on time, each on its own; nothing is repeated."""

    def __init__(
        self, client: httpx.AsyncClient, pictures: Sequence[bytes], *, task: str = "detect", model: str | None = None
    ) -> None:
        self._client, self._pictures, self._task, self._model = client, pictures, task, model

    async def run(self, planned: Sequence[Arrival]) -> list[RequestOutcome]:
        """The outcomes, in order of arrival, once all are known."""
        start, sending = time.monotonic(), []
        for arrival in planned:
            await asyncio.sleep(start + arrival.at - time.monotonic())
            sending.append(asyncio.create_task(self._send(arrival, start + arrival.at)))
        return list(await asyncio.gather(*sending))

    def request(self, arrival: Arrival) -> httpx.Request:
        """The request of one arrival."""
        images, labels = [self._pictures[arrival.picture]], list(arrival.labels)
        if self._task == "detect":
            return self._build(endpoints.detect_call(images, {"labels": labels, "model": self._model}))
        if self._task == "classify":
            return self._build(endpoints.classify_call(images, labels, {"model": self._model}))
        return self._build(endpoints.similarity_call(images, labels, {"model": self._model}))

    def _build(self, call: VisionCall[VisionAnswer]) -> httpx.Request:
        (batch,) = call.batches(Limits())
        return self._client.build_request("POST", call.path, **call.content(batch))

    async def _send(self, arrival: Arrival, due: float) -> RequestOutcome:
        request = self.request(arrival)
        late, timing = time.monotonic() - due, ""
        try:
            answer = await bounded(self._client, request)
            outcome, timing = str(answer.status_code), answer.headers.get("server-timing", "")
        except httpx.HTTPError as error:
            outcome = type(error).__name__
        stages = {name: float(ms) for name, ms in _TIMING.findall(timing)}
        run = _RUN.search(timing)
        batch, shape = (int(run[1]), run[2]) if run else (0, "")
        return RequestOutcome(outcome, late, time.monotonic() - due, stages, arrival.at, batch, shape)


async def bounded(client: httpx.AsyncClient, request: httpx.Request) -> httpx.Response:
    """The answer, read; ReadTimeout where it is not whole after TIMEOUT_S, and ReadError where it is too large."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            answer = await client.send(request, stream=True)
            try:
                parts, size = [], 0
                async for part in answer.aiter_bytes():
                    parts.append(part)
                    if (size := size + len(part)) > MAX_ANSWER_BYTES:
                        raise httpx.ReadError(f"an answer has more than {MAX_ANSWER_BYTES} bytes", request=request)
            finally:
                await answer.aclose()
    except TimeoutError:
        raise httpx.ReadTimeout(f"an answer is not whole after {TIMEOUT_S:g} s", request=request) from None
    head = {name: value for name, value in answer.headers.items() if name != "content-encoding"}  # which is undone
    return httpx.Response(answer.status_code, headers=head, content=b"".join(parts), request=request)
