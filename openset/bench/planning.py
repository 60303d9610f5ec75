"""Plans from a benchmark: costs of a replica as they were measured, and the rates that many of them would sustain."""

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from openset.bench.report import QUANTILES, quantile
from openset.bench.simulation import MOST_REPLICAS, ServingCosts, needed_replicas, replay, sustained_rate
from openset.bench.traffic import RequestOutcome

SIZES = (10, 100, 1000)  # replicas that are simulated besides
_UNEVEN = 0.1  # of a machine's pace at some rate, worth telling
Outcomes = Mapping[float, Sequence[RequestOutcome]]  # by rate


@dataclass(frozen=True)
class MeasuredCosts:
    """Costs for the simulation, and the names of their shapes, in order."""

    costs: ServingCosts
    shapes: tuple[str, ...]

    def pace(self, outcome: RequestOutcome) -> float:
        """Times its cost that the run of this answer took."""
        _, factor = self.costs.shapes[self.shapes.index(outcome.shape)]
        cost = self.costs.setup_s + outcome.batch * factor * self.costs.image_s
        return _infer_s(outcome) / cost


def measured_costs(measured: Outcomes, *, max_batch: int) -> MeasuredCosts | None:
    """The costs of a run and of each image in it, by shape, from the answers' own times; None where they tell of none.

    What a run costs beside its images is taken to be the same for all shapes, and never below 0: that images in large
    batches seem to take longer than alone is rather a machine that was slower when they came.
    """
    runs = [outcome for outcomes in measured.values() for outcome in _told(outcomes)]
    if not runs:
        return None
    setup_s, images_s = _fitted(runs)
    counts = Counter(run.shape for run in runs)
    image_s = fmean(images_s[run.shape] for run in runs)
    shapes = tuple(
        (count / len(runs), images_s[shape] / image_s if image_s else 1.0) for shape, count in counts.items()
    )
    # At the lowest rate: at others, what shares the machine with the runs has less of it than a replica will give it.
    rest_s = next(_rest_s(told) for _, outcomes in sorted(measured.items()) if (told := _told(outcomes)))
    found = MeasuredCosts(
        ServingCosts(setup_s, image_s, rest_s=rest_s, max_batch=max_batch, shapes=shapes), tuple(counts)
    )
    paces = [found.pace(run) for run in runs]
    return replace(found, costs=replace(found.costs, spread=lambda chance, _: chance.choice(paces)))


def _fitted(runs: Sequence[RequestOutcome]) -> tuple[float, dict[str, float]]:
    """Seconds of a run and, by shape, of each image in it: least squares over runs, each of which n answers tell of."""
    answers, images, seconds = Counter[str](), Counter[str](), dict.fromkeys((run.shape for run in runs), 0.0)
    for run in runs:
        answers[run.shape] += 1
        images[run.shape] += run.batch
        seconds[run.shape] += _infer_s(run)
    # With a setup given, a shape's image takes `alone - setup * less`.
    alone = {shape: seconds[shape] / images[shape] for shape in seconds}
    less = {shape: answers[shape] / images[shape] for shape in seconds}
    parts = [(1 - run.batch * less[run.shape], _infer_s(run) - run.batch * alone[run.shape], run.batch) for run in runs]
    differ = sum(part**2 / batch for part, _, batch in parts)
    setup_s = sum(part * left / batch for part, left, batch in parts) / differ if differ >= 1 else 0.0
    most = min(seconds[shape] / answers[shape] for shape in seconds)
    setup_s = min(max(0.0, setup_s), most)
    return setup_s, {shape: max(0.0, alone[shape] - setup_s * less[shape]) for shape in seconds}


def replayed_latency(found: MeasuredCosts, outcomes: Sequence[RequestOutcome], *, replicas: int) -> dict[str, float]:
    """Latencies by quantile in milliseconds, and their mean, of these requests again; {} where none was told of.

    Runs take as many times their cost as those that really began at that time, and all else what it took at that rate:
    others may have used the machine.
    """
    told = sorted(_told(outcomes), key=_began)
    if not told:
        return {}
    times, paces = [_began(run) for run in told], [found.pace(run) for run in told]
    common = max(range(len(found.shapes)), key=lambda index: found.costs.shapes[index][0])
    costs = replace(
        found.costs, rest_s=_rest_s(told), spread=lambda _, now: paces[max(0, bisect_right(times, now) - 1)]
    )
    shapes = [found.shapes.index(each.shape) if each.shape in found.shapes else common for each in outcomes]
    took = replay(costs, [each.at for each in outcomes], shapes=shapes, replicas=replicas).latencies_s
    latency = {name: round(1000 * quantile(took, share), 1) for name, share in QUANTILES.items()}
    return {**latency, "mean": round(1000 * fmean(took), 1)}


def plan(found: MeasuredCosts, measured: Outcomes, *, replicas: int, wanted: float, **promise: float) -> dict[str, Any]:
    """The simulation of the `measured` requests, for comparison, of `wanted` requests a second, and of SIZES.

    promise: `objective_s`, and the `share` of requests that must keep it.
    """
    costs = found.costs
    by_shape = zip(found.shapes, costs.shapes, strict=True)
    paces = {rate: [found.pace(each) for each in _told(outcomes)] for rate, outcomes in measured.items()}
    return {
        "costs": {
            **{name: round(getattr(costs, name), 6) for name in ("setup_s", "image_s", "rest_s")},
            **{name: getattr(costs, name) for name in ("max_batch", "max_queue")},
            "shapes": {
                name: {"share": round(share, 4), "image_s": round(factor * costs.image_s, 6)}
                for name, (share, factor) in by_shape
            },
        },
        "latency_ms": {
            f"{rate:g}": replayed_latency(found, each, replicas=replicas) for rate, each in measured.items()
        },
        "pace": {f"{rate:g}": round(fmean(each), 3) for rate, each in paces.items() if each},
        "needed": needed_replicas(costs, rate=wanted, **promise),
        "sustained": {str(size): round(sustained_rate(costs, replicas=size, **promise), 1) for size in SIZES},
    }


def planned_lines(plan: dict[str, Any], measured: Outcomes, wanted: float) -> list[str]:
    """The plan for the terminal, beside what was measured."""
    costs, count = plan["costs"], len(plan["costs"]["shapes"])
    lines = [
        f"simulated from {1000 * costs['setup_s']:.1f} ms a run, {1000 * costs['image_s']:.1f} ms an image in it"
        f" ({count} shape{'s' * (count > 1)}, at most {costs['max_batch']} together) and"
        f" {1000 * costs['rest_s']:.1f} ms besides:"
    ]
    for rate, outcomes in measured.items():
        if found := plan["latency_ms"][f"{rate:g}"]:
            took = [each.seconds for each in outcomes if each.outcome == "200"]
            mean_s, pace = fmean(took), plan["pace"][f"{rate:g}"]
            lines.append(
                f"{rate:7g}/s mean {found['mean']:.0f} ms, measured {1000 * mean_s:.0f} ms"
                f" ({found['mean'] / 1000 / mean_s - 1:+.0%}); p50 {found['p50']:.0f} ms, measured"
                f" {1000 * quantile(took, QUANTILES['p50']):.0f} ms"
            )
            if abs(pace - 1) > _UNEVEN:
                lines.append(f"{'':9} runs took {pace:.2f} times these costs: the machine's pace was another then")
    needed = plan["needed"]
    lines.append(
        f"{wanted:g} requests a second need {needed} replicas"
        if needed
        else f"{wanted:g} requests a second within the objective: not even {MOST_REPLICAS:,} replicas are enough"
    )
    sustained = ", ".join(f"{size}: {rate:g}" for size, rate in plan["sustained"].items())
    return [*lines, f"requests a second that so many replicas sustain: {sustained}"]


def _told(outcomes: Sequence[RequestOutcome]) -> list[RequestOutcome]:
    """The answers that tell of their runs."""
    return [each for each in outcomes if each.outcome == "200" and each.batch and _infer_s(each) > 0]


def _infer_s(outcome: RequestOutcome) -> float:
    return outcome.stages_ms.get("infer", 0.0) / 1000


def _queue_s(outcome: RequestOutcome) -> float:
    return outcome.stages_ms.get("queue", 0.0) / 1000


def _rest_s(runs: Sequence[RequestOutcome]) -> float:
    """Mean seconds of answers besides queue and run."""
    return max(0.0, fmean(run.seconds - _queue_s(run) - _infer_s(run) for run in runs))


def _began(outcome: RequestOutcome) -> float:
    """The second at which its run began, but for the way there."""
    return outcome.at + outcome.late_s + _queue_s(outcome)
