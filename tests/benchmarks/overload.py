"""Overload: whom the server accepts it answers within the bound of its queue, the rest it refuses at once.

    python -m tests.benchmarks.overload --seconds 20

First the pace is measured at which the server answers clients who wait for their answers. Then requests come at five
times that pace, whether earlier ones are answered or not. When that is over, some who were refused last come again,
each after its own Retry-After.

An accepted request waits for no more images than the places of its queue and the run under way hold, which bounds its
time by (max_queue + max_batch) / pace, with the pace at which images were answered meanwhile. All requests come from
one address: among several clients, who take turns, it is each one's share that is bounded (`scheduling`). The exit
status is 1 where a bound was broken, where a request was neither answered nor refused, where the pace fell below half,
where refusals took a fifth of what answers took, or where most who came again as told were refused again.
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

from tests.benchmarks.live import ROOT, LiveServer, serving
from tests.benchmarks.traffic import FORM, form

MAX_QUEUE, MAX_BATCH = 32, 8
IMAGES = 4  # of a request: models of usual size leave the HTTP side more time for each request than the bundled ones do
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
TOGETHER = 6  # who wait for their answers
FACTOR = 5
PACE_VARIES = 1.5  # while it lasts, on a machine that others use too
COME_AGAIN = MAX_QUEUE // IMAGES // 2
ANSWERED_WITHIN_S = 120
REFUSED = "429"
_STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
_RETRY_AFTER = re.compile(rb"retry-after: (\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """A request `sent` `late` seconds after its time, whose answer began when it was `done`; the loop's clock."""

    what: str
    sent: float
    done: float
    late: float
    retry_after: float

    @property
    def seconds(self) -> float:
        return self.done - self.sent


class _Exchange(asyncio.Protocol):
    """One request on a connection of its own, with as little work as can be: this process must keep up."""

    def __init__(self, request: bytes) -> None:
        self._request, self.received = request, b""
        self.begun = math.nan  # when the answer began
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


class Load:
    """Clients that ask for the same thing."""

    def __init__(self, port: int) -> None:
        self._port = port
        picture = (ROOT / "server/examples/scene.jpg").read_bytes()
        body = form([*[("image", picture)] * IMAGES, ("labels", "dog"), ("labels", "bicycle")])
        head = f"POST /detect HTTP/1.1\r\nHost: openset\r\nConnection: close\r\nContent-Type: {FORM}\r\n"
        self._request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def ask(self, when: float | None = None) -> Answer:
        """One request, at its time."""
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
        what = status[1].decode() if status else "no answer"
        return Answer(what, sent, exchange.begun, sent - (when or sent), float(again[1]) if again else math.nan)

    async def pace(self, seconds: float) -> float:
        """Images answered per second to clients who wait for their answers."""
        loop = asyncio.get_running_loop()
        start = loop.time()

        async def asking(_: int) -> int:
            count = 0
            while loop.time() < start + seconds:
                count += (await self.ask()).what == "200"
            return count

        counts = await asyncio.gather(*map(asking, range(TOGETHER)))
        return sum(counts) * IMAGES / (loop.time() - start)

    async def offer(self, rate: float, seconds: float) -> list[Answer]:
        """What becomes of `rate` requests a second, enough to fill the queue, whatever became of earlier ones."""
        start = asyncio.get_running_loop().time()
        return await asyncio.gather(
            *(
                self.ask(start + number / rate)
                for number in range(max(int(rate * seconds), 3 * (MAX_QUEUE + MAX_BATCH) // IMAGES))
            )
        )

    async def come_again(self, refused: Sequence[Answer]) -> list[Answer]:
        """What those get who were refused, each asking again when it was told to."""
        return await asyncio.gather(*(self.ask(one.done + one.retry_after) for one in refused))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20, help="how long the overload lasts (default: 20)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *FLAGS) as server:
        return report(asyncio.run(overload(server, seconds=args.seconds)))


async def overload(server: LiveServer, *, seconds: float) -> "Overload":
    """Overload `server` and see what comes of it."""
    load = Load(server.port)
    await load.pace(0.5)  # the first answers are slower
    pace = await load.pace(seconds / 2)
    before = server.total("openset_inferences_total")
    answers = await load.offer(FACTOR * pace / IMAGES, seconds)
    lasted = max(answer.done for answer in answers) - min(answer.sent for answer in answers)
    under_load = (server.total("openset_inferences_total") - before) / lasted
    last = sorted((answer for answer in answers if answer.what == REFUSED), key=lambda answer: answer.done)
    return Overload(pace, under_load, answers, await load.come_again(last[-COME_AGAIN:]))


@dataclass(frozen=True)
class Overload:
    """What came of an overload; paces in images per second, that of waiting clients and that `under_load`."""

    pace: float
    under_load: float
    answers: Sequence[Answer]
    again: Sequence[Answer]

    @property
    def accepted(self) -> list[Answer]:
        """Who was answered, the slowest last."""
        return sorted((answer for answer in self.answers if answer.what == "200"), key=lambda answer: answer.seconds)

    @property
    def refused(self) -> list[Answer]:
        """Who was refused, the slowest last."""
        return sorted((answer for answer in self.answers if answer.what == REFUSED), key=lambda answer: answer.seconds)

    @property
    def others(self) -> dict[str, int]:
        """What became of those who were neither answered nor refused."""
        return Counter(answer.what for answer in self.answers if answer.what not in ("200", REFUSED))

    @property
    def waited_for(self) -> int:
        """The most images that were answered to others while an accepted request waited."""
        done = sorted(answer.done for answer in self.accepted)
        return max(
            IMAGES * (bisect.bisect_left(done, one.done) - bisect.bisect_right(done, one.sent)) for one in self.accepted
        )

    @property
    def bound_s(self) -> float:
        """What the queue's places and a run take at the pace there was."""
        return (MAX_QUEUE + MAX_BATCH) / self.under_load

    @property
    def heeded(self) -> int:
        """How many of those who came again when told to were answered."""
        return sum(answer.what == "200" for answer in self.again)


def report(found: Overload) -> int:
    """Print what came of an overload; 1 where something is wrong."""
    accepted, refused = ([answer.seconds for answer in kind] for kind in (found.accepted, found.refused))
    told = sorted(answer.retry_after for answer in found.refused)
    late, bound = max(answer.late for answer in found.answers), found.bound_s
    offered = f"{len(found.answers)} requests of {IMAGES} images, {FACTOR} times that pace"
    heeded = f"{found.heeded} of {len(found.again)} who heeded it were answered"
    print(f"pace of waiting clients: {found.pace:.1f} images a second")
    print(f"offered: {offered}, {late:.2f} s late at most")
    print(f"answered: {len(accepted)}, at {found.under_load / found.pace:.2f} of that pace; refused: {len(refused)}")
    print(f"answers, seconds: {_spread(accepted)}; bound {bound:.3f}: p99 is {_at(accepted, 99) / bound:.2f} of it")
    print(f"images answered to others while one waited: {found.waited_for} at most, of {MAX_QUEUE} + {MAX_BATCH}")
    print(f"refusals, seconds: {_spread(refused)}; p99 is {_at(refused, 99) / bound:.3f} of the bound")
    print(f"Retry-After: {_at(told, 0):g} to {_at(told, 100):g} s; {heeded}")
    faults = {
        f"neither answered nor refused: {found.others}": bool(found.others),
        "nobody was refused: this was no overload": not refused,
        "an accepted request waited for more images than a queue and two runs hold": found.waited_for
        > MAX_QUEUE + 2 * MAX_BATCH,
        "accepted requests were slower than the bound": _at(accepted, 99) > PACE_VARIES * bound,
        "refusals were slow": _at(refused, 50) > _at(accepted, 50) / 5,
        "the pace fell below half": found.under_load < found.pace / 2,
        "most who came again as told were refused again": found.heeded * 2 <= len(found.again),
    }
    wrong = [f"WRONG: {fault}" for fault, there in faults.items() if there]
    print("\n".join(wrong) or "nothing wrong", flush=True)
    return 1 if wrong else 0


def _spread(ordered: Sequence[float]) -> str:
    return f"median {_at(ordered, 50):.3f}, p99 {_at(ordered, 99):.3f}, slowest {_at(ordered, 100):.3f}"


def _at(ordered: Sequence[float], percent: int) -> float:
    """The value that `percent` of the `ordered` ones do not exceed."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


if __name__ == "__main__":
    sys.exit(main())
