"""Who waits for whom: a client with 1,000 images beside one with a single image, priorities, deadlines, who has gone.

    python -m tests.benchmarks.scheduling

Four scenes, in each of which one client fills the queue of a model. Waiting is counted in the model's runs, each of up
to eight images, so that figures of different machines compare. The exit status is 1 where a client waited for more than
a few runs, or where an image ran that nobody waited for any more.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

from tests.benchmarks.live import ROOT, LiveServer, serving, total
from tests.benchmarks.traffic import FORM, form

MODEL = 'model="grounding-dino-mini"'
IMAGES = 16  # of a request of the client that fills the queue
MAX_QUEUE = 1200
FLAGS = ("--log-level", "warning", "--max-queue", str(MAX_QUEUE), "--max-batch", "8")
SINGLES = 5  # one after the other
GONE = 20
# A single image waits for the run under way and its turn, and to read the metrics takes time as well.
MAY_WAIT_RUNS = 5
WITHIN_S = 300
GREEDY, MODEST = "127.0.0.2", "127.0.0.3"
# A figure, the most that is right, and what it is.
Row = tuple[float, float, str]


class Scenes:
    """Clients of two addresses, and what the server counts meanwhile."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        picture = (ROOT / "server/examples/object.jpg").read_bytes()
        self._single = form([("image", picture), ("labels", "dog")])
        self._many = form([*[("image", picture)] * IMAGES, ("labels", "dog")])
        self._clients = {address: _client(server.url, address) for address in (GREEDY, MODEST)}

    async def fairness(self, requests: int) -> list[Row]:
        """A single image of one client while another has `requests` full of images waiting."""
        async with self._filled(requests) as images:
            runs = [await self._runs_for_one(MODEST) for _ in range(SINGLES)]
            waiting = await self._count("openset_queue_depth")
        return [
            (statistics.median(runs), MAY_WAIT_RUNS, f"runs for a single image beside another client's {images:g}"),
            (max(runs), 2 * MAY_WAIT_RUNS, "the most of them"),
            (1 - waiting / images, 0.5, f"share of the {images:g} that had run when {SINGLES} such images had"),
        ]

    async def priorities(self, requests: int) -> list[Row]:
        """A single interactive image of the client that has `requests` full of images of batch priority waiting."""
        async with self._filled(requests, **{"X-Priority": "batch"}) as images:
            runs = [await self._runs_for_one(GREEDY) for _ in range(SINGLES)]
        what = f"runs for an interactive image beside {images:g} of batch priority, of the same client"
        return [(statistics.median(runs), MAY_WAIT_RUNS, what)]

    async def deadlines(self, requests: int) -> list[Row]:
        """Requests behind `requests` full of images of their own client, whose deadlines pass meanwhile."""
        return await self._dropped(requests, "deadline passed", self._too_late)

    async def gone(self, requests: int) -> list[Row]:
        """Requests behind `requests` full of images of their own client, whose connections close meanwhile."""
        return await self._dropped(requests, "client has gone", self._going)

    async def _dropped(self, requests: int, why: str, some: Callable[[], Awaitable[int]]) -> list[Row]:
        names = ("openset_inferences_total", "openset_cancelled_total")
        before = [await self._count(name) for name in names]
        asked = [asyncio.create_task(self._post(GREEDY, self._many)) for _ in range(requests)]
        await self._until("openset_queue_depth", requests * IMAGES / 2)
        dropped = await some()
        answered = [answer.status_code for answer in await asyncio.gather(*asked)].count(200)
        ran, cancelled = [await self._count(name) - count for name, count in zip(names, before, strict=True)]
        return [
            (GONE - dropped, 0, f"of {GONE} requests whose {why}: not dropped"),
            (GONE - cancelled, 0, "of these: not counted as cancelled"),
            (ran - answered * IMAGES, 0, "images that ran though nobody waited for them"),
            (requests - answered, 0, f"of the {requests} requests before them: not answered"),
        ]

    async def _too_late(self) -> int:
        late = [self._post(GREEDY, self._single, **{"X-Request-Timeout-Ms": "200"}) for _ in range(GONE)]
        return [answer.status_code for answer in await asyncio.gather(*late)].count(504)

    async def _going(self) -> int:
        before = await self._count("openset_inflight_requests")
        leaving = [asyncio.create_task(self._post(GREEDY, self._single)) for _ in range(GONE)]
        await self._until("openset_inflight_requests", before + GONE)
        cancelled = await self._count("openset_cancelled_total")
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving)
        await self._until("openset_cancelled_total", cancelled + GONE)
        return sum(task.cancelled() for task in leaving)

    @asynccontextmanager
    async def _filled(self, requests: int, **headers: str) -> AsyncIterator[float]:
        """The greedy client's images, and how many of them wait when it begins; afterwards that client has gone."""
        asked = [asyncio.create_task(self._post(GREEDY, self._many, **headers)) for _ in range(requests)]
        await self._until("openset_queue_depth", 0.9 * requests * IMAGES)
        yield await self._count("openset_queue_depth")
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
        while await self._count("openset_queue_depth"):
            await asyncio.sleep(0.05)
        await self._post(MODEST, self._single)  # what ran meanwhile is counted by then

    async def _runs_for_one(self, address: str) -> float:
        """How many runs of the model end until a single image is answered."""
        before = await self._count("openset_executions_total")
        (await self._post(address, self._single)).raise_for_status()
        return await self._count("openset_executions_total") - before

    async def _post(self, address: str, body: bytes, **headers: str) -> httpx.Response:
        return await self._clients[address].post("/detect", content=body, headers={"Content-Type": FORM} | headers)

    async def _count(self, name: str) -> float:
        metrics = await asyncio.to_thread(self._server.metrics)
        return total(metrics, name, *([MODEL] if name.startswith(("openset_queue", "openset_exec")) else []))

    async def _until(self, name: str, count: float) -> None:
        async with asyncio.timeout(WITHIN_S):
            while await self._count(name) < count:
                await asyncio.sleep(0.02)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--images", type=int, default=1008, help="images of the greedy client (default: 1008)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *FLAGS) as server:
        return report(asyncio.run(scenes(server, images=args.images)))


async def scenes(server: LiveServer, *, images: int) -> list[Row]:
    """All figures, with so many images of the greedy client; an eighth of them where they all have to run."""
    staged, many = Scenes(server), -(-images // IMAGES)
    few = max(8, many // 8)
    rows = [*await staged.fairness(many), *await staged.priorities(many)]
    return [*rows, *await staged.deadlines(few), *await staged.gone(few)]


def report(rows: Sequence[Row]) -> int:
    """Print the figures; 1 where one is too high."""
    for figure, most, what in rows:
        print(f"{figure:6.3g}  {what} (at most {most:g}){'  WRONG' if figure > most else ''}", flush=True)
    return 1 if any(figure > most for figure, most, _ in rows) else 0


def _client(url: str, address: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    transport = httpx.AsyncHTTPTransport(local_address=address, limits=limits)
    return httpx.AsyncClient(base_url=url, timeout=WITHIN_S, transport=transport)


if __name__ == "__main__":
    sys.exit(main())
