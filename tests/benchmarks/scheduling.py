"""Fairness between clients, priorities, deadlines, and disconnected clients, measured in model runs.

    python -m tests.benchmarks.scheduling

Four scenarios, in each of which one client fills a model's queue with up to 1,000 images. Waiting is counted in runs of
up to eight images, so that figures of different machines compare. The exit status is 1 if a client waited for more than
a few runs, or if an image of an abandoned request ran.
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

from tests.benchmarks.live_server import ROOT, LiveServer, serving, total
from tests.benchmarks.traffic import FORM, form

MODEL = 'model="grounding-dino-mini"'
IMAGES = 16  # per request of the greedy client
MAX_QUEUE = 1200
FLAGS = ("--log-level", "warning", "--max-queue", str(MAX_QUEUE), "--max-batch", "8")
SINGLES = 5  # sequential single-image requests
ABANDONED = 20  # requests whose deadline passes or whose client disconnects
# A single image waits for the run in progress and its own; reading the metrics takes time too.
MAX_RUNS = 5
TIMEOUT_S = 300
GREEDY, MODEST = "127.0.0.2", "127.0.0.3"
# A figure, its upper bound, and its description.
Row = tuple[float, float, str]


class Scenarios:
    """Clients from two addresses, with the metrics that `server` counts meanwhile."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        picture = (ROOT / "server/examples/dog.jpg").read_bytes()
        self._single = form([("image", picture), ("labels", "dog")])
        self._many = form([*[("image", picture)] * IMAGES, ("labels", "dog")])
        self._clients = {address: _client(server.url, address) for address in (GREEDY, MODEST)}

    async def fairness(self, requests: int) -> list[Row]:
        """Single images of one client while another has `requests` full requests waiting."""
        async with self._filled(requests) as images:
            runs = [await self._runs_for_one(MODEST) for _ in range(SINGLES)]
            waiting = await self._count("openset_queue_depth")
        return [
            (statistics.median(runs), MAX_RUNS, f"runs for a single image beside another client's {images:g}"),
            (max(runs), 2 * MAX_RUNS, "the largest of them"),
            (1 - waiting / images, 0.5, f"share of the {images:g} that had run when {SINGLES} such images had"),
        ]

    async def priorities(self, requests: int) -> list[Row]:
        """Single interactive images of a client that has `requests` full requests of batch priority waiting."""
        async with self._filled(requests, **{"X-Priority": "batch"}) as images:
            runs = [await self._runs_for_one(GREEDY) for _ in range(SINGLES)]
        what = f"runs for an interactive image beside {images:g} of batch priority, of the same client"
        return [(statistics.median(runs), MAX_RUNS, what)]

    async def deadlines(self, requests: int) -> list[Row]:
        """Requests whose deadlines pass while they wait behind `requests` full requests of their own client."""
        return await self._dropped(requests, "deadline passed", self._miss_deadlines)

    async def disconnects(self, requests: int) -> list[Row]:
        """Requests whose clients disconnect while they wait behind `requests` full requests of their own client."""
        return await self._dropped(requests, "client disconnected", self._disconnect)

    async def _dropped(self, requests: int, why: str, abandon: Callable[[], Awaitable[int]]) -> list[Row]:
        names = ("openset_inferences_total", "openset_cancelled_total")
        before = [await self._count(name) for name in names]
        waiting = [asyncio.create_task(self._post(GREEDY, self._many)) for _ in range(requests)]
        await self._until("openset_queue_depth", requests * IMAGES / 2)
        dropped = await abandon()
        answered = [answer.status_code for answer in await asyncio.gather(*waiting)].count(200)
        ran, cancelled = [await self._count(name) - count for name, count in zip(names, before, strict=True)]
        return [
            (ABANDONED - dropped, 0, f"of {ABANDONED} requests whose {why}: not dropped"),
            (ABANDONED - cancelled, 0, "of these: not counted as cancelled"),
            (ran - answered * IMAGES, 0, "images of abandoned requests that ran"),
            (requests - answered, 0, f"of the {requests} requests before them: not answered"),
        ]

    async def _miss_deadlines(self) -> int:
        late = [self._post(GREEDY, self._single, **{"X-Request-Timeout-Ms": "200"}) for _ in range(ABANDONED)]
        return [answer.status_code for answer in await asyncio.gather(*late)].count(504)

    async def _disconnect(self) -> int:
        before = await self._count("openset_inflight_requests")
        leaving = [asyncio.create_task(self._post(GREEDY, self._single)) for _ in range(ABANDONED)]
        await self._until("openset_inflight_requests", before + ABANDONED)
        cancelled = await self._count("openset_cancelled_total")
        for task in leaving:
            task.cancel()
        await asyncio.wait(leaving)
        await self._until("openset_cancelled_total", cancelled + ABANDONED)
        return sum(task.cancelled() for task in leaving)

    @asynccontextmanager
    async def _filled(self, requests: int, **headers: str) -> AsyncIterator[float]:
        """Fill the queue by the greedy client; yields the images waiting. Disconnects that client afterwards."""
        waiting = [asyncio.create_task(self._post(GREEDY, self._many, **headers)) for _ in range(requests)]
        await self._until("openset_queue_depth", 0.9 * requests * IMAGES)
        yield await self._count("openset_queue_depth")
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        while await self._count("openset_queue_depth"):
            await asyncio.sleep(0.05)
        await self._post(MODEST, self._single)  # the runs meanwhile are counted by then

    async def _runs_for_one(self, address: str) -> float:
        """Number of model runs until a single image is answered."""
        before = await self._count("openset_executions_total")
        (await self._post(address, self._single)).raise_for_status()
        return await self._count("openset_executions_total") - before

    async def _post(self, address: str, body: bytes, **headers: str) -> httpx.Response:
        return await self._clients[address].post("/detect", content=body, headers={"Content-Type": FORM} | headers)

    async def _count(self, name: str) -> float:
        metrics = await asyncio.to_thread(self._server.metrics)
        return total(metrics, name, *([MODEL] if name.startswith(("openset_queue", "openset_exec")) else []))

    async def _until(self, name: str, count: float) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            while await self._count(name) < count:
                await asyncio.sleep(0.02)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--images", type=int, default=1008, help="images of the greedy client (default: 1008)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *FLAGS) as server:
        return report(asyncio.run(run_scenarios(server, images=args.images)))


async def run_scenarios(server: LiveServer, *, images: int) -> list[Row]:
    """All figures, with `images` of the greedy client; an eighth of them in scenarios where all have to run."""
    scenarios, many = Scenarios(server), -(-images // IMAGES)
    few = max(8, many // 8)
    rows = [*await scenarios.fairness(many), *await scenarios.priorities(many)]
    return [*rows, *await scenarios.deadlines(few), *await scenarios.disconnects(few)]


def report(rows: Sequence[Row]) -> int:
    """Print the figures; 1 if one is too high."""
    for figure, most, what in rows:
        print(f"{figure:6.3g}  {what} (at most {most:g}){'  WRONG' if figure > most else ''}", flush=True)
    return 1 if any(figure > most for figure, most, _ in rows) else 0


def _client(url: str, address: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    transport = httpx.AsyncHTTPTransport(local_address=address, limits=limits)
    return httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, transport=transport)


if __name__ == "__main__":
    sys.exit(main())
