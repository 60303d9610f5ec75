"""Overload: accepted requests are answered within the bound of the queue, the rest get an immediate 429.

    python -m tests.benchmarks.overload --seconds 20

First a closed loop measures the sustainable throughput. Then an open loop sends requests at five times that rate,
whether earlier ones are answered or not. Afterwards some of the refused ones are retried, each after its Retry-After.

An accepted request waits for at most the images in the queue and in the run in progress, which bounds its latency by
(max_queue + max_batch) / throughput under load. All requests come from one address: among several clients, who are
served round-robin, each one's share is bounded (`scheduling`). The exit status is 1 if the bound was broken, a request
was neither answered nor refused, throughput fell below half, refusals took over a fifth of the time of answers, or most
retries were refused again.
"""

import argparse
import asyncio
import bisect
import math
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.live_server import ROOT, LiveServer, serving
from tests.benchmarks.traffic import FORM, form

MAX_QUEUE, MAX_BATCH = 32, 8
IMAGES = 4  # per request: larger models leave HTTP more time per request than the bundled ones do
FLAGS = (
    "--log-level",
    "warning",
    "--max-queue",
    str(MAX_QUEUE),
    "--max-batch",
    str(MAX_BATCH),
    "--max-images",
    str(IMAGES),
)
CLOSED_LOOP_CLIENTS = 6
FACTOR = 5
TOLERANCE = 1.5  # for throughput that varies on a shared machine
RETRIES = MAX_QUEUE // IMAGES // 2
ANSWERED_WITHIN_S = 120
REFUSED = "429"
_STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
_RETRY_AFTER = re.compile(rb"retry-after: (\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """One request: `sent` `late` seconds after schedule, first answer byte at `done`, by the event loop's clock."""

    outcome: str
    sent: float
    done: float
    late: float
    retry_after: float

    @property
    def seconds(self) -> float:
        return self.done - self.sent


class _Exchange(asyncio.Protocol):
    """One request on its own connection, with minimal work, since the load generator must keep up."""

    def __init__(self, request: bytes) -> None:
        self._request, self.received = request, b""
        self.begun = math.nan  # time of the first byte
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        if not self.received:
            self.begun = asyncio.get_running_loop().time()
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.over.done():
            self.over.set_result(None)


class LoadGenerator:
    """Sends one fixed request in a closed or an open loop."""

    def __init__(self, port: int) -> None:
        self._port = port
        picture = (ROOT / "server/examples/scene.jpg").read_bytes()
        body = form([*[("image", picture)] * IMAGES, ("labels", "dog"), ("labels", "bicycle")])
        head = f"POST /detect HTTP/1.1\r\nHost: openset\r\nConnection: close\r\nContent-Type: {FORM}\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def send(self, when: float | None = None) -> Answer:
        """Send one request, at time `when` of the loop's clock if given."""
        loop = asyncio.get_running_loop()
        if when is not None:
            await asyncio.sleep(when - loop.time())
        sent, exchange = loop.time(), _Exchange(self._request)
        try:
            async with asyncio.timeout(ANSWERED_WITHIN_S):
                await loop.create_connection(lambda: exchange, "127.0.0.1", self._port)
                await exchange.over
        except (OSError, TimeoutError) as error:
            return Answer(f"no answer ({type(error).__name__})", sent, loop.time(), sent - (when or sent), math.nan)
        status, again = _STATUS.match(exchange.received), _RETRY_AFTER.search(exchange.received)
        outcome = status[1].decode() if status else "no answer"
        return Answer(outcome, sent, exchange.begun, sent - (when or sent), float(again[1]) if again else math.nan)

    async def throughput(self, seconds: float) -> float:
        """Images answered per second in a closed loop."""
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def client(_: int) -> int:
            count = 0
            while loop.time() < start + seconds:
                count += (await self.send()).outcome == "200"
            return count

        counts = await asyncio.gather(*map(client, range(CLOSED_LOOP_CLIENTS)))
        return sum(counts) * IMAGES / (loop.time() - start)

    async def offer(self, rate: float, seconds: float) -> list[Answer]:
        """Answers in an open loop of `rate` requests per second, at least enough to fill the queue."""
        start = asyncio.get_running_loop().time()
        return await asyncio.gather(
            *(
                self.send(start + number / rate)
                for number in range(max(int(rate * seconds), 3 * (MAX_QUEUE + MAX_BATCH) // IMAGES))
            )
        )

    async def retry(self, refused: Sequence[Answer]) -> list[Answer]:
        """Answers to retries of the refused requests, each after its Retry-After."""
        return await asyncio.gather(*(self.send(one.done + one.retry_after) for one in refused))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="duration of the overload (default: 20)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *FLAGS) as server:
        return report(asyncio.run(overload(server, seconds=args.seconds)))


async def overload(server: LiveServer, *, seconds: float) -> "Overload":
    """Measure the throughput of `server`, overload it, and retry some refused requests."""
    load = LoadGenerator(server.port)
    await load.throughput(0.5)  # warm-up
    throughput = await load.throughput(seconds / 2)
    before = server.total("openset_inferences_total")
    answers = await load.offer(FACTOR * throughput / IMAGES, seconds)
    lasted = max(answer.done for answer in answers) - min(answer.sent for answer in answers)
    under_load = (server.total("openset_inferences_total") - before) / lasted
    last = sorted((answer for answer in answers if answer.outcome == REFUSED), key=lambda answer: answer.done)
    return Overload(throughput, under_load, answers, await load.retry(last[-RETRIES:]))


@dataclass(frozen=True)
class Overload:
    """Outcome of an overload; `throughput` (closed loop) and `under_load` in images per second."""

    throughput: float
    under_load: float
    answers: Sequence[Answer]
    retried: Sequence[Answer]

    @property
    def accepted(self) -> list[Answer]:
        """Answered requests, slowest last."""
        return sorted((answer for answer in self.answers if answer.outcome == "200"), key=lambda answer: answer.seconds)

    @property
    def refused(self) -> list[Answer]:
        """Refused requests, slowest last."""
        return sorted(
            (answer for answer in self.answers if answer.outcome == REFUSED), key=lambda answer: answer.seconds
        )

    @property
    def others(self) -> dict[str, int]:
        """Counts of all other outcomes."""
        return Counter(answer.outcome for answer in self.answers if answer.outcome not in ("200", REFUSED))

    @property
    def waited_for(self) -> int:
        """Largest number of images answered to others while an accepted request waited."""
        done = sorted(answer.done for answer in self.accepted)
        return max(
            IMAGES * (bisect.bisect_left(done, one.done) - bisect.bisect_right(done, one.sent)) for one in self.accepted
        )

    @property
    def bound_s(self) -> float:
        """Latency bound: a full queue and one run, at the throughput under load."""
        return (MAX_QUEUE + MAX_BATCH) / self.under_load

    @property
    def retried_successfully(self) -> int:
        """Number of retries that were answered."""
        return sum(answer.outcome == "200" for answer in self.retried)


def report(found: Overload) -> int:
    """Print the figures; 1 if a bound was broken."""
    accepted, refused = ([answer.seconds for answer in kind] for kind in (found.accepted, found.refused))
    retry_after = sorted(answer.retry_after for answer in found.refused)
    late, bound = max(answer.late for answer in found.answers), found.bound_s
    offered = f"{len(found.answers)} requests of {IMAGES} images, {FACTOR} times that rate"
    retries = f"{found.retried_successfully} of {len(found.retried)} retries were answered"
    share = found.under_load / found.throughput
    print(f"closed-loop throughput: {found.throughput:.1f} images per second")
    print(f"offered: {offered}, {late:.2f} s late at most")
    print(f"answered: {len(accepted)}, at {share:.2f} of that throughput; refused: {len(refused)}")
    print(f"answers, seconds: {_spread(accepted)}; bound {bound:.3f}: p99 is {_at(accepted, 99) / bound:.2f} of it")
    print(f"images answered to others while one waited: {found.waited_for} at most, of {MAX_QUEUE} + {MAX_BATCH}")
    print(f"refusals, seconds: {_spread(refused)}; p99 is {_at(refused, 99) / bound:.3f} of the bound")
    print(f"Retry-After: {_at(retry_after, 0):g} to {_at(retry_after, 100):g} s; {retries}")
    faults = {
        f"neither answered nor refused: {found.others}": bool(found.others),
        "no request was refused: this was not an overload": not refused,
        "an accepted request waited for more than a full queue and two runs": found.waited_for
        > MAX_QUEUE + 2 * MAX_BATCH,
        "accepted requests were slower than the bound": _at(accepted, 99) > TOLERANCE * bound,
        "refusals were slow": _at(refused, 50) > _at(accepted, 50) / 5,
        "throughput fell below half": found.under_load < found.throughput / 2,
        "most retries were refused again": found.retried_successfully * 2 <= len(found.retried),
    }
    wrong = [f"WRONG: {fault}" for fault, broken in faults.items() if broken]
    print("\n".join(wrong) or "nothing wrong", flush=True)
    return 1 if wrong else 0


def _spread(ordered: Sequence[float]) -> str:
    return f"median {_at(ordered, 50):.3f}, p99 {_at(ordered, 99):.3f}, slowest {_at(ordered, 100):.3f}"


def _at(ordered: Sequence[float], percent: int) -> float:
    """Percentile of ordered values."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


if __name__ == "__main__":
    sys.exit(main())
