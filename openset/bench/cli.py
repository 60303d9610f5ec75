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
from openset.bench.report import RateFigures, document, needed, sustained, table
from openset.bench.traffic import TIMEOUT_S, OpenLoop, arrivals
from openset.command_options import api_key
from openset.errors import ClientError
from openset.images import read_regular
from openset.sources import SourceError, find_sources

_WARM_UP_S = 2.0  # of traffic at the lowest rate, before anything is counted


class BenchError(Exception):
    """A benchmark that cannot run; the message says why."""


def run(args: argparse.Namespace) -> int:
    """Run the command: 0 where a rate was sustained, 1 where none was, 2 for a benchmark that cannot run."""
    try:
        pictures = _pictures(args.pictures)
        figures = asyncio.run(measure(args, pictures))
        rate = sustained(figures, args.share)
        plan: dict[str, Any] = {"sustained": rate, "replicas": args.replicas}
        print(table(figures))
        print(f"sustained: {rate:g} requests a second, {args.share:.0%} of them within {args.objective:g} s")
        if args.wanted and rate:
            plan |= {"wanted": args.wanted, "needed": needed(args.wanted, rate=rate, replicas=args.replicas)}
            print(f"{args.wanted:g} requests a second need {plan['needed']} replicas, if they scale as one does")
        if args.json:
            question = {"url": args.url, "task": args.task, "labels": args.labels, "pictures": len(pictures)}
            question |= {"objective_s": args.objective, "share": args.share, "seconds": args.seconds, "seed": args.seed}
            args.json.write_text(json.dumps(document(figures, question, plan), indent=2) + "\n", encoding="utf-8")
    except (BenchError, ClientError, SourceError, ValueError, OSError) as error:
        print(f"openset bench: {error}", file=sys.stderr)
        return 2
    return 0 if rate else 1


async def measure(args: argparse.Namespace, pictures: Sequence[bytes]) -> list[RateFigures]:
    """The figures of each rate, from the lowest to the highest."""
    url = endpoints.base_url(args.url)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    options = proxies.options_for(url, None)
    head = endpoints.headers(api_key(args))
    with proxies.explained(str(url)):
        made = httpx.AsyncClient(base_url=url, headers=head, timeout=TIMEOUT_S, limits=limits, **options)
    async with made as client:
        loop, rates = OpenLoop(client, pictures, task=args.task, model=args.model), sorted(set(args.rate))
        mix = {"pictures": len(pictures), "labels": args.labels, "seed": args.seed}
        await _check(client, loop, mix)
        await loop.run(list(arrivals(rates[0], _WARM_UP_S, **mix)))
        figures = []
        for rate in rates:
            samples = await loop.run(list(arrivals(rate, args.seconds, **mix)))
            figures.append(RateFigures.of(samples, rate=rate, seconds=args.seconds, objective_s=args.objective))
        return figures


async def _check(client: httpx.AsyncClient, loop: OpenLoop, mix: dict[str, Any]) -> None:
    """BenchError where one request alone is not answered: a wrong key, model or address would be measured instead."""
    first = next(arrivals(1.0, float("inf"), **mix))
    try:
        answer = await client.send(loop.request(first))
    except httpx.HTTPError as error:
        through = proxies.note(str(client.base_url))
        raise BenchError(f"no server answers at {client.base_url}{through}: {error}") from None
    if answer.status_code != 200:
        raise BenchError(f"a request alone is answered with {answer.status_code}: {answer.text.strip()[:500]}")


def _pictures(given: Sequence[str] | None) -> list[bytes]:
    if not given:
        examples = files("server") / "examples"
        return [file.read_bytes() for file in sorted(examples.iterdir(), key=str) if file.name.endswith(".jpg")]
    pictures = [read_regular(file.path) for file in find_sources(given, stdin=sys.stdin).files if not file.is_video]
    if not pictures:
        raise SourceError("there are videos only: give pictures")
    return pictures
