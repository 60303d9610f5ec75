"""Plans from a benchmark: costs of a replica as they were measured, and the rates that many of them would sustain."""

from collections.abc import Mapping, Sequence
from typing import Any

from openset.bench.report import QUANTILES, RateFigures, quantile
from openset.bench.simulation import ServingCosts, needed_replicas, replay, sustained_rate

SIZES = (10, 100, 1000)  # replicas that are simulated besides
# Mean batches that differ by less tell nothing of how a run's time grows with them.
_APART = 0.25


def measured_costs(figures: Sequence[RateFigures], *, max_batch: int) -> ServingCosts | None:
    """The costs of a run and of each image in it, by least squares over the rates, and all else at the lowest rate.

    None where the server's counts are missing. Where all runs were of about one size, larger ones are taken to cost as
    much for each image, which promises too little rather than too much.
    """
    counted = [each for each in figures if each.runs and each.mean_batch and each.latency_ms]
    if not counted:
        return None
    runs = sum(each.runs for each in counted)
    mean_batch = sum(each.runs * each.mean_batch for each in counted) / runs
    mean_s = sum(each.runs * each.run_ms for each in counted) / runs / 1000
    sizes = [each.mean_batch for each in counted]
    image_s = mean_s / mean_batch
    if max(sizes) - min(sizes) >= _APART:
        spread = sum(each.runs * (each.mean_batch - mean_batch) ** 2 for each in counted)
        together = sum(each.runs * (each.mean_batch - mean_batch) * (each.run_ms / 1000 - mean_s) for each in counted)
        image_s = min(image_s, max(0.0, together / spread))
    lowest = min(counted, key=lambda each: each.rate)
    rest_ms = lowest.mean_ms - sum(lowest.stages_ms.get(stage, 0.0) for stage in ("queue", "infer"))
    return ServingCosts(mean_s - image_s * mean_batch, image_s, rest_s=max(0.0, rest_ms / 1000), max_batch=max_batch)


def simulated_latency(costs: ServingCosts, arrivals: Sequence[float], *, replicas: int) -> dict[str, float]:
    """Latencies by quantile in milliseconds, and their mean, of requests that arrive at these seconds."""
    found = replay(costs, arrivals, replicas=replicas).latencies_s
    if not found:
        return {}
    latency = {name: round(1000 * quantile(found, share), 1) for name, share in QUANTILES.items()}
    return {**latency, "mean": round(1000 * sum(found) / len(found), 1)}


def plan(
    costs: ServingCosts, arrivals: Mapping[float, Sequence[float]], *, replicas: int, wanted: float, **promise: float
) -> dict[str, Any]:
    """The simulation of the measured `arrivals` (seconds, by rate), for comparison, of `wanted` requests, and of SIZES.

    promise: `objective_s`, and the `share` of requests that must keep it.
    """
    return {
        "costs": {
            name: round(getattr(costs, name), 6) for name in ("setup_s", "image_s", "rest_s", "max_batch", "max_queue")
        },
        "latency_ms": {
            f"{rate:g}": simulated_latency(costs, times, replicas=replicas) for rate, times in arrivals.items()
        },
        "needed": needed_replicas(costs, rate=wanted, **promise),
        "sustained": {str(size): round(sustained_rate(costs, replicas=size, **promise), 1) for size in SIZES},
    }


def planned_lines(plan: dict[str, Any], figures: Sequence[RateFigures], wanted: float) -> list[str]:
    """The plan for the terminal, beside what was measured."""
    costs = plan["costs"]
    lines = [
        f"simulated from {1000 * costs['setup_s']:.1f} ms a run, {1000 * costs['image_s']:.1f} ms an image in it and"
        f" {1000 * costs['rest_s']:.1f} ms besides:"
    ]
    for each in figures:
        found = plan["latency_ms"][f"{each.rate:g}"]
        if each.latency_ms:
            off = found["mean"] / each.mean_ms - 1
            lines.append(
                f"{each.rate:7g}/s mean {found['mean']:.0f} ms, measured {each.mean_ms:.0f} ms ({off:+.0%});"
                f" p50 {found['p50']:.0f} ms, measured {each.latency_ms['p50']:.0f} ms"
            )
    needed = plan["needed"]
    lines.append(
        f"{wanted:g} requests a second need {needed} replicas"
        if needed
        else "a request alone takes longer than the objective: no number of replicas is enough"
    )
    sustained = ", ".join(f"{size}: {rate:g}" for size, rate in plan["sustained"].items())
    return [*lines, f"requests a second that so many replicas sustain: {sustained}"]
