"""Pictures made to be slow or large, and everyone else meanwhile.

    python -m tests.benchmarks.pictures --seconds 30

Attackers send JPEGs of many scans, run-length coded BMPs, progressive and WebP pictures of 49 megapixels, and ask for
drawings of these, some with a deadline of two seconds, while another client, at an address of its own, classifies a
small picture again and again, and /livez is asked every few milliseconds. Memory is the proportional set size of the
server and its decoders. The exit status is 1 if /livez took over 100 ms, the other client was refused or waited for ten
seconds, or memory passed 1 GiB.
"""

import argparse
import asyncio
import itertools
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.benchmarks.live_server import ROOT, LiveServer, serving
from tests.server.slow_pictures import many_scans, one_colour, short_rows

FLAGS = ("--log-level", "error", "--warm-up", "none")
SCENE = ROOT / "server/examples/scene.jpg"
ATTACKERS = 8
LIVE_S, OTHERS_S, MEMORY_BYTES = 0.1, 10.0, 2**30
FORM = {"labels": ["dog", "cat"]}


@dataclass
class Observed:
    """Seconds of each answer from /livez and to the other client, statuses of all, and the most memory."""

    live: list[float] = field(default_factory=list)
    other: list[float] = field(default_factory=list)
    other_statuses: Counter[int] = field(default_factory=Counter)
    attack_statuses: Counter[int] = field(default_factory=Counter)
    memory_bytes: int = 0
    memory_after_bytes: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--seconds", type=float, default=30, help="duration of the attack (default: 30)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *FLAGS) as server:
        return report(asyncio.run(attack(server, seconds=args.seconds)))


def slow_pictures() -> list[bytes]:
    """Pictures of up to as many pixels as are accepted."""
    webp = one_colour((5000, 4000), form="WEBP", method=0)
    return [many_scans(), short_rows(), one_colour(progressive=True), webp, one_colour(form="PNG", compress_level=1)]


async def attack(server: LiveServer, *, seconds: float) -> Observed:
    """Attack the server for so long, and observe it."""
    pictures = slow_pictures()
    seen, until = Observed(), time.monotonic() + seconds

    async def again(turn: Callable[[httpx.AsyncClient], Awaitable[None]], *, address: str) -> None:
        transport = httpx.AsyncHTTPTransport(local_address=address)
        async with httpx.AsyncClient(base_url=server.url, transport=transport, timeout=600) as client:
            while time.monotonic() < until:
                await turn(client)

    turns = itertools.count()

    async def attacker(client: httpx.AsyncClient) -> None:
        turn = next(turns)
        headers = {"X-Request-Timeout-Ms": "2000"} if turn % 2 else {}
        if turn % 3 == 0:
            headers["Accept"] = "image/png"
        files = {"image": pictures[turn % len(pictures)]}
        answer = await client.post("/detect", data=FORM, files=files, headers=headers)
        seen.attack_statuses[answer.status_code] += 1

    async def other(client: httpx.AsyncClient) -> None:
        started = time.monotonic()
        answer = await client.post("/classify", data=FORM, files={"image": SCENE.read_bytes()})
        seen.other.append(time.monotonic() - started)
        seen.other_statuses[answer.status_code] += 1
        await asyncio.sleep(0.1)

    async def watch(client: httpx.AsyncClient) -> None:
        started = time.monotonic()
        assert (await client.get("/livez")).status_code == 200
        seen.live.append(time.monotonic() - started)
        seen.memory_bytes = max(seen.memory_bytes, await asyncio.to_thread(group_bytes, server.process.pid))
        await asyncio.sleep(0.005)

    attackers = [asyncio.create_task(again(attacker, address="127.0.0.2")) for _ in range(ATTACKERS)]
    await asyncio.gather(again(other, address="127.1.0.3"), again(watch, address="127.2.0.4"))
    for task in attackers:
        task.cancel()
    await asyncio.gather(*attackers, return_exceptions=True)
    await asyncio.sleep(2)
    seen.memory_after_bytes = group_bytes(server.process.pid)
    return seen


def group_bytes(pid: int) -> int:
    """Proportional set size of a process and of all that it started, and those."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        started_by_threads = [
            child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
        ]
    except OSError:  # it has ended
        return 0
    own = re.search(r"^Pss:\s+(\d+) kB", rollup, re.M)
    below = {int(child) for child in (*children, *started_by_threads)}
    return (int(own[1]) * 1024 if own else 0) + sum(map(group_bytes, below))


def report(seen: Observed) -> int:
    """Print what was observed; 1 if a bound was broken."""
    print(f"attackers' answers: {dict(seen.attack_statuses)}; the other client's: {dict(seen.other_statuses)}")
    print(f"/livez, ms: {_spread(seen.live)}; the other client, ms: {_spread(seen.other)}")
    print(f"memory, MiB: {seen.memory_bytes / 2**20:.0f} at most, {seen.memory_after_bytes / 2**20:.0f} afterwards")
    faults = {
        "/livez was slow": max(seen.live) > LIVE_S,
        "another client was refused": set(seen.other_statuses) != {200},
        "another client waited": max(seen.other) > OTHERS_S,
        "memory passed 1 GiB": seen.memory_bytes > MEMORY_BYTES,
        "an attacker met a fault of the server": not seen.attack_statuses.keys().isdisjoint((500, 502, 503)),
    }
    wrong = [f"WRONG: {fault}" for fault, broken in faults.items() if broken]
    print("\n".join(wrong) or "nothing wrong", flush=True)
    return 1 if wrong else 0


def _spread(values: Sequence[float]) -> str:
    ordered = sorted(values)
    return ", ".join(f"{name} {1000 * ordered[int(share * (len(ordered) - 1))]:.0f}" for name, share in
                     (("p50", 0.5), ("p99", 0.99), ("p100", 1.0)))  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
