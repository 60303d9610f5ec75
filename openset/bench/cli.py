"""`openset bench`: the rate of requests that a server, or many behind one address, answer in time."""

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import httpx

from openset import endpoints, proxies
from openset.bench.planning import Outcomes, measured_costs, planned_lines
from openset.bench.planning import plan as simulated_plan
from openset.bench.report import RateFigures, document, needed, plot, sustained, table
from openset.bench.server_metrics import NO_DOCUMENT, read_cpu_s, read_max_batch
from openset.bench.traffic import TIMEOUT_S, OpenLoop, arrivals, bounded
from openset.command_options import api_key
from openset.errors import ClientError
from openset.sources import SourceError, find_sources

_WARM_UP_S = 2.0  # of traffic at the lowest rate, before anything is counted


class BenchError(Exception):
    """A benchmark that cannot run; the message says why."""


def run(args: argparse.Namespace) -> int:
    """Run the command: 0 where a rate was sustained, 1 where none was, 2 for a benchmark that cannot run."""
    try:
        pictures = _pictures(args.pictures)
        figures, measured, max_batch = asyncio.run(measure(args, pictures))
        rate = sustained(figures, args.share)
        plan: dict[str, Any] = {"sustained": rate, "replicas": args.replicas}
        print(table(figures))
        print(f"sustained: {rate:g} requests a second, {args.share:.0%} of them within {args.objective:g} s")
        if args.wanted and rate:
            plan |= {"wanted": args.wanted, "needed": needed(args.wanted, rate=rate, replicas=args.replicas)}
            print(f"{args.wanted:g} requests a second need {plan['needed']} replicas, if they scale as one does")
        if args.wanted and max_batch and (costs := measured_costs(measured, max_batch=max_batch)):
            promise = {"objective_s": args.objective, "share": args.share}
            plan["simulated"] = simulated = simulated_plan(
                costs, measured, replicas=args.replicas, wanted=args.wanted, **promise
            )
            print("\n".join(planned_lines(simulated, measured, args.wanted)))
        elif args.wanted:
            print("no simulation: the server does not tell of its runs (Server-Timing, /models)")
        if args.plot:
            args.plot.write_text(plot(figures), encoding="utf-8")
        if args.json:
            question = {"url": args.url, "task": args.task, "labels": args.labels, "pictures": len(pictures)}
            question |= {"objective_s": args.objective, "share": args.share, "seconds": args.seconds, "seed": args.seed}
            args.json.write_text(json.dumps(document(figures, question, plan), indent=2) + "\n", encoding="utf-8")
    except (BenchError, ClientError, SourceError, ValueError, OSError) as error:
        print(f"openset bench: {error}", file=sys.stderr)
        return 2
    return 0 if rate else 1


async def measure(
    args: argparse.Namespace, pictures: Sequence[bytes]
) -> tuple[list[RateFigures], Outcomes, int | None]:
    """The figures and outcomes of each rate, from the lowest to the highest, and the most images of a run."""
    url = endpoints.base_url(args.url)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    options = proxies.options_for(url, None)
    head = endpoints.headers(api_key(args))
    with proxies.explained(str(url)):
        made = httpx.AsyncClient(base_url=url, headers=head, timeout=TIMEOUT_S, limits=limits, **options)
    async with made as client:
        loop, rates = OpenLoop(client, pictures, task=args.task, model=args.model), sorted(set(args.rate))
        mix = _mix(args, pictures)
        max_batch = await read_max_batch(client, await _check(client, loop, mix))
        await loop.run(list(arrivals(rates[0], _WARM_UP_S, **mix)))
        figures, measured = [], {}
        for rate in rates:
            before = await read_cpu_s(client)
            measured[rate] = samples = await loop.run(list(arrivals(rate, args.seconds, **mix)))
            after = await read_cpu_s(client)
            # Less than before: a replica has started anew.
            cpu_s = after - before if before is not None and after is not None and after >= before else None
            question = {"rate": rate, "seconds": args.seconds, "objective_s": args.objective, "cpu_s": cpu_s}
            figures.append(RateFigures.of(samples, **question))
        return figures, measured, max_batch


def _mix(args: argparse.Namespace, pictures: Sequence[bytes]) -> dict[str, Any]:
    """The arguments of arrivals, which give the same ones each time."""
    return {"pictures": len(pictures), "labels": args.labels, "seed": args.seed}


async def _check(client: httpx.AsyncClient, loop: OpenLoop, mix: dict[str, Any]) -> str:
    """The name of the model that answers a request alone.

    BenchError without an answer: a wrong key, model or address would be measured instead.
    """
    first = next(arrivals(1.0, float("inf"), **mix))
    try:
        answer = await bounded(client, loop.request(first))
    except httpx.HTTPError as error:
        through = proxies.note(str(client.base_url))
        raise BenchError(f"no server answers at {client.base_url}{through}: {error}") from None
    if answer.status_code != 200:
        raise BenchError(f"a request alone is answered with {answer.status_code}: {answer.text.strip()[:300]!r}")
    try:
        return str(answer.json()["model"]["name"])
    except NO_DOCUMENT:
        raise BenchError(f"{client.base_url} is no Openset: it answers {answer.text.strip()[:100]!r}") from None


def _pictures(given: Sequence[str] | None) -> list[bytes]:
    if not given:
        examples = files("server") / "examples"
        return [file.read_bytes() for file in sorted(examples.iterdir(), key=str) if file.name.endswith(".jpg")]
    pictures = [file.read() for file in find_sources(given, stdin=sys.stdin).files if not file.is_video]
    if not pictures:
        raise SourceError("there are videos only: give pictures")
    return pictures
