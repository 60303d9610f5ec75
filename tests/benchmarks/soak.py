"""Soak test: mixed valid and malformed requests get acceptable answers, and no resource grows.

    python -m tests.benchmarks.soak --requests 10000

After each round the idle server's memory, descriptors, threads, tasks, queue, buffer pool and prompt cache are read.
The first fifth of the rounds is warm-up. The prompt cache is small (`--prompt-cache-bytes`), so that it is full by then
and has to evict. The exit status is 1 if an answer was wrong or something grew.
"""

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.benchmarks.live_server import LiveServer, serving, total
from tests.benchmarks.load_client import LoadClient
from tests.benchmarks.traffic import RequestCase, Traffic

CONCURRENCY = 12  # requests; with up to 4 images each, too few to fill a queue
CACHE_BYTES = 2 * 2**20
WARM_SHARE = 5
# What comes and goes: a decoder process that is being replaced has two sockets; threads of the pools start when needed.
PASSING = {"descriptors": 4, "threads": 2, "tasks": 1}
# Largest allowed growth of memory from the fifth after the warm-up to the last fifth, relative.
MAX_GROWTH = 0.10
IDLE_WITHIN_S = 60


@dataclass(frozen=True)
class Resources:
    """Resources of the idle server after `requests` requests; memory in bytes."""

    requests: int
    resident: int
    descriptors: int
    threads: int
    tasks: float
    queued: float
    pool_in_use: float
    pool_reserved: float
    cache: float


FLAGS = ("--log-level", "warning", "--prompt-cache-bytes", str(CACHE_BYTES))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--requests", type=int, default=10_000, help="mixed requests (default: 10000)")
    parser.add_argument("--rounds", type=int, default=25, help="rounds of them (default: 25)")
    parser.add_argument("--seed", type=int, default=1, help="of the requests (default: 1)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *FLAGS) as server:
        wrong = soak(server, requests=args.requests, rounds=args.rounds, seed=args.seed)
    print("\n" + ("\n".join(f"WRONG: {fault}" for fault in wrong) or "all answers acceptable, nothing grew"))
    return 1 if wrong else 0


def soak(server: LiveServer, *, requests: int, rounds: int, seed: int = 1, max_growth: float = MAX_GROWTH) -> list[str]:
    """Send `requests` to `server`, print its resources per round and its answers; the faults found."""
    traffic, answers, wrong, held = Traffic(seed), Counter[tuple[str, str]](), list[str](), list[Resources]()
    before, started = server.metrics(), time.monotonic()
    print("requests  memory MiB  descriptors  threads  tasks  queued  pool in use  pool MiB  cache KiB", flush=True)
    for number in range(rounds):
        size = requests * (number + 1) // rounds - requests * number // rounds
        asyncio.run(_send_round(server.url, [traffic.next() for _ in range(size)], seed + number, answers, wrong))
        held.append(_resources_when_idle(server, sum(answers.values())))
        _show(held[-1])
    print(f"\n{requests} requests, {time.monotonic() - started:.0f} s; answers by kind of request:")
    for (kind, answer), count in sorted(answers.items()):
        print(f"{count:6d}  {kind}: {answer}")
    wrong += growth(held[max(1, rounds // WARM_SHARE) - 1 :], max_growth)
    return wrong + _failures(before, server.metrics())


async def _send_round(
    url: str, requests: Sequence[RequestCase], seed: int, answers: Counter[tuple[str, str]], wrong: list[str]
) -> None:
    client, semaphore = LoadClient(url, seed), asyncio.Semaphore(CONCURRENCY)

    async def one(case: RequestCase) -> None:
        async with semaphore:
            answer, text = await client.send(case)
        answers[case.kind, answer] += 1
        if answer not in case.accepted:
            wrong.append(f"{case.kind} was answered {answer}, not {' or '.join(sorted(case.accepted))}: {text}")

    await asyncio.gather(*map(one, requests))
    await client.close()


def _resources_when_idle(server: LiveServer, requests: int) -> Resources:
    """Resources once all connections are closed and nothing is in flight."""
    give_up = time.monotonic() + IDLE_WITHIN_S
    while True:
        metrics = server.metrics()
        held = Resources(
            requests=requests,
            resident=server.resident_bytes(),
            descriptors=server.descriptors(),
            threads=server.threads(),
            tasks=total(metrics, "openset_tasks"),
            queued=total(metrics, "openset_queue_depth"),
            pool_in_use=total(metrics, "openset_pool_in_use_bytes"),
            pool_reserved=total(metrics, "openset_pool_reserved_bytes"),
            cache=total(metrics, "openset_prompt_cache_bytes"),
        )
        if metrics["openset_inflight_requests"] == 1 and not held.queued and not held.pool_in_use:
            return held
        if time.monotonic() > give_up:
            return held  # `growth` reports it
        time.sleep(0.1)


def growth(held: Sequence[Resources], max_growth: float) -> list[str]:
    """Faults: the resources that grew; `held` starts after the warm-up."""
    warm, last, wrong = held[0], held[-1], []
    resident = [entry.resident / 2**20 for entry in held]
    # Idle memory varies with heap fragmentation, hence the means over several rounds.
    part = max(1, len(held) // (WARM_SHARE - 1))
    first, final = statistics.mean(resident[:part]), statistics.mean(resident[-part:])
    slope = np.polyfit([entry.requests / 1000 for entry in held], resident, 1)[0] if len(held) > 1 else 0.0
    print(
        f"\nmemory, MiB: {first:.1f} when warm, {final:.1f} at the end, {max(resident):.1f} at most;"
        f" slope {slope:+.2f} per 1000 requests; pool {last.pool_reserved / 2**20:.1f},"
        f" cache {last.cache / 2**20:.1f} of {CACHE_BYTES / 2**20:.1f}"
    )
    if final > first * (1 + max_growth):
        wrong.append(f"memory grew from {first:.1f} to {final:.1f} MiB")
    for name in ("descriptors", "threads", "tasks"):
        before, after = getattr(warm, name), getattr(last, name)
        print(f"{name}: {before:g} when warm, {after:g} at the end")
        if after > before + PASSING[name]:
            wrong.append(f"{name} grew from {before:g} to {after:g}")
    for name in ("queued", "pool_in_use"):
        if any(getattr(entry, name) for entry in held):
            wrong.append(f"{name} did not return to 0")
    if last.cache > CACHE_BYTES:
        wrong.append(f"the prompt cache holds {last.cache:g} bytes of {CACHE_BYTES}")
    return wrong


def _failures(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Faults that the server itself counts: 5xx answers (but 504) and leaked pool blocks."""
    failed = {
        series: count - before.get(series, 0)
        for series, count in after.items()
        if series.startswith("openset_requests_total") and 'status="5' in series and 'status="504"' not in series
    }
    leaked = total(after, "openset_pool_leaked_blocks")
    faults = [f"{series} grew by {count:g}" for series, count in failed.items() if count]
    return [*faults, *(["the pool leaked"] if leaked else [])]


def _show(held: Resources) -> None:
    print(
        f"{held.requests:8d}  {held.resident / 2**20:10.1f}  {held.descriptors:11d}  {held.threads:7d}"
        f"  {held.tasks:5g}  {held.queued:6g}  {held.pool_in_use:11g}  {held.pool_reserved / 2**20:8.1f}"
        f"  {held.cache / 1024:9.0f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
