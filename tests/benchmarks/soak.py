"""A server under mixed requests, good and bad: each gets one of the answers it may get, and nothing grows.

    python -m tests.benchmarks.soak --requests 10000

After each round of requests the server is left to itself for a moment, and what it holds is read: memory, descriptors,
threads, tasks, queue, pool, cache. The first fifth of the rounds is its warm-up. The cache of text features is small
(`--prompt-cache-bytes`), so that it is full by then and has to forget. The exit status is 1 where an answer was
wrong or something grew.
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

from tests.benchmarks.asking import Asker
from tests.benchmarks.live import LiveServer, serving, total
from tests.benchmarks.traffic import Asked, Traffic

TOGETHER = 12  # requests under way; with up to 4 images each, too few to fill a queue
CACHE_BYTES = 2 * 2**20
WARM_SHARE = 5
# The most that memory may grow from the fifth after the warm-up to the last fifth, as a share of what it was.
MAY_GROW = 0.10
IDLE_WITHIN_S = 60


@dataclass(frozen=True)
class Held:
    """What an idle server holds."""

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
    parser.add_argument("--seed", type=int, default=1, help="another seed makes other requests (default: 1)")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *FLAGS) as server:
        wrong = soak(server, requests=args.requests, rounds=args.rounds, seed=args.seed)
    print("\n" + ("\n".join(f"WRONG: {fault}" for fault in wrong) or "nothing wrong, nothing grew"))
    return 1 if wrong else 0


def soak(server: LiveServer, *, requests: int, rounds: int, seed: int = 1, may_grow: float = MAY_GROW) -> list[str]:
    """What is wrong after so many requests to `server`; prints what it held after each round, and its answers."""
    traffic, answers, wrong, held = Traffic(seed), Counter[tuple[str, str]](), list[str](), list[Held]()
    before, started = server.metrics(), time.monotonic()
    print("requests  memory MiB  descriptors  threads  tasks  queued  pool in use  pool MiB  cache KiB", flush=True)
    for number in range(rounds):
        size = requests * (number + 1) // rounds - requests * number // rounds
        asyncio.run(_round(server.url, [traffic.next() for _ in range(size)], seed + number, answers, wrong))
        held.append(_held_when_idle(server, sum(answers.values())))
        _show(held[-1])
    print(f"\n{requests} requests, {time.monotonic() - started:.0f} s; answers by kind of request:")
    for (kind, answer), count in sorted(answers.items()):
        print(f"{count:6d}  {kind}: {answer}")
    wrong += growth(held[max(1, rounds // WARM_SHARE) - 1 :], may_grow)
    return wrong + _failures(before, server.metrics())


async def _round(
    url: str, requests: Sequence[Asked], seed: int, answers: Counter[tuple[str, str]], wrong: list[str]
) -> None:
    asker, together = Asker(url, seed), asyncio.Semaphore(TOGETHER)

    async def one(asked: Asked) -> None:
        async with together:
            answer, text = await asker.ask(asked)
        answers[asked.kind, answer] += 1
        if answer not in asked.answers:
            wrong.append(f"{asked.kind} was answered {answer}, not {' or '.join(sorted(asked.answers))}: {text}")

    await asyncio.gather(*map(one, requests))
    await asker.close()


def _held_when_idle(server: LiveServer, requests: int) -> Held:
    """What the server holds once connections are closed and nothing is under way."""
    give_up = time.monotonic() + IDLE_WITHIN_S
    while True:
        metrics = server.metrics()
        held = Held(
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
            return held  # `growth` will tell
        time.sleep(0.1)


def growth(held: Sequence[Held], may_grow: float) -> list[str]:
    """What an idle server holds too much of; `held` begins when it was warm."""
    warm, last, wrong = held[0], held[-1], []
    resident = [entry.resident / 2**20 for entry in held]
    # What an idle process holds goes up and down with its heap's fragments, hence means of several rounds.
    part = max(1, len(held) // (WARM_SHARE - 1))
    first, final = statistics.mean(resident[:part]), statistics.mean(resident[-part:])
    slope = np.polyfit([entry.requests / 1000 for entry in held], resident, 1)[0] if len(held) > 1 else 0.0
    print(
        f"\nmemory, MiB: {first:.1f} when warm, {final:.1f} in the end, {max(resident):.1f} at most;"
        f" slope {slope:+.2f} for 1000 requests; pool {last.pool_reserved / 2**20:.1f},"
        f" cache {last.cache / 2**20:.1f} of {CACHE_BYTES / 2**20:.1f}"
    )
    if final > first * (1 + may_grow):
        wrong.append(f"memory grew from {first:.1f} to {final:.1f} MiB")
    for name in ("descriptors", "threads", "tasks"):
        before, after = getattr(warm, name), getattr(last, name)
        print(f"{name}: {before:g} when warm, {after:g} at the end")
        if after > before:
            wrong.append(f"{name} grew from {before:g} to {after:g}")
    for name in ("queued", "pool_in_use"):
        if any(getattr(entry, name) for entry in held):
            wrong.append(f"{name} did not come back to 0")
    if last.cache > CACHE_BYTES:
        wrong.append(f"the prompt cache holds {last.cache:g} bytes of {CACHE_BYTES}")
    return wrong


def _failures(before: dict[str, float], after: dict[str, float]) -> list[str]:
    """Answers that are failures of the server, as it counts them itself."""
    failed = {
        series: count - before.get(series, 0)
        for series, count in after.items()
        if series.startswith("openset_requests_total") and 'status="5' in series and 'status="504"' not in series
    }
    leaked = total(after, "openset_pool_leaked_blocks")
    faults = [f"{series} grew by {count:g}" for series, count in failed.items() if count]
    return [*faults, *(["the pool leaked"] if leaked else [])]


def _show(held: Held) -> None:
    print(
        f"{held.requests:8d}  {held.resident / 2**20:10.1f}  {held.descriptors:11d}  {held.threads:7d}"
        f"  {held.tasks:5g}  {held.queued:6g}  {held.pool_in_use:11g}  {held.pool_reserved / 2**20:8.1f}"
        f"  {held.cache / 1024:9.0f}",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
