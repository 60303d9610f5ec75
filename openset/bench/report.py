"""Figures of a benchmark: goodput at an objective, latencies, stages, and the replicas that a rate needs."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from openset.bench.traffic import RequestOutcome
from openset.curve_plot import curve_plot

QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
TOTAL = "total"  # of Server-Timing: all stages and what lies between them
# A client that sends later than this no longer asks at the rate that it says.
LATE_S = 0.1
FEW = 30  # requests, below which quantiles are chance


@dataclass(frozen=True)
class RateFigures:
    """Figures of one rate.

    offered: requests a second that arrived; good: those a second that were answered within the objective, and
    `good_share` of all; outcomes: requests by status or error; latency_ms: of answers, by quantile; stages_ms: means;
    late_ms: by so much 99 of 100 requests at most were sent too late; mean_ms: the mean latency; as the server tells
    them: cpu_ms of all its processes for each answer, and mean_batch, the images of a model run, 0 if unknown.
    """

    rate: float
    offered: float
    good: float
    good_share: float
    outcomes: dict[str, int]
    latency_ms: dict[str, float]
    stages_ms: dict[str, float]
    late_ms: float
    mean_ms: float = 0.0
    cpu_ms: float | None = None
    mean_batch: float = 0.0

    @classmethod
    def of(
        cls,
        samples: Sequence[RequestOutcome],
        *,
        rate: float,
        seconds: float,
        objective_s: float,
        cpu_s: float | None = None,
    ) -> "RateFigures":
        """The figures of what arrived within `seconds`, with the processor time that the server took meanwhile."""
        answered = [sample for sample in samples if sample.outcome == "200"]
        good = sum(sample.seconds <= objective_s for sample in answered)
        took = [sample.seconds for sample in answered]
        stages = dict.fromkeys(stage for sample in answered for stage in sample.stages_ms)
        batches = [sample.batch for sample in answered if sample.batch]
        return cls(
            rate,
            round(len(samples) / seconds, 3),
            round(good / seconds, 3),
            round(good / len(samples), 4) if samples else 0.0,
            dict(Counter(sample.outcome for sample in samples).most_common()),
            {name: round(1000 * quantile(took, share), 1) for name, share in QUANTILES.items() if took},
            {
                stage: round(sum(sample.stages_ms.get(stage, 0.0) for sample in answered) / len(answered), 3)
                for stage in stages
            },
            round(1000 * quantile([sample.late_s for sample in samples], 0.99), 1) if samples else 0.0,
            round(1000 * sum(took) / len(took), 1) if took else 0.0,
            round(1000 * cpu_s / len(answered), 1) if cpu_s is not None and answered else None,
            round(len(batches) / sum(1 / size for size in batches), 3) if batches else 0.0,
        )


def quantile(values: Sequence[float], share: float) -> float:
    """The least of `values` that so great a share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def sustained(figures: Sequence[RateFigures], share: float) -> float:
    """The highest rate offered with so great a share within the objective, at all lower ones too; 0 for none."""
    found = 0.0
    for each in sorted(figures, key=lambda each: each.rate):
        if each.good_share < share:
            break
        found = each.offered
    return found


def needed(wanted: float, *, rate: float, replicas: int) -> int:
    """Replicas for `wanted` requests a second, where `replicas` sustained `rate`."""
    return math.ceil(wanted * replicas / rate)


def plot(figures: Sequence[RateFigures]) -> str:
    """Latencies of the answers over the rate, as SVG; ValueError where there are none."""
    lines = {
        name: [(each.offered, each.latency_ms[name]) for each in figures if name in each.latency_ms]
        for name in QUANTILES
    }
    if not any(lines.values()):
        raise ValueError("nothing was answered: there is nothing to plot")
    return curve_plot("Latency in ms", lines, axis="requests/s")


def document(figures: Sequence[RateFigures], question: dict[str, Any], plan: dict[str, Any]) -> dict[str, Any]:
    """All figures, for JSON."""
    return {**question, "rates": [asdict(each) for each in figures], **plan}


def table(figures: Sequence[RateFigures]) -> str:
    """The figures as lines of a table, stages as shares of the server's time."""
    lines = [f"{'rate':>7} {'good/s':>7} {'good':>6} {'p50':>8} {'p90':>8} {'p99':>8}  outcomes"]
    for each in figures:
        took = " ".join(f"{f'{each.latency_ms[name]:.0f}ms' if each.latency_ms else '-':>8}" for name in QUANTILES)
        outcomes = ", ".join(f"{name}: {count}" for name, count in each.outcomes.items())
        lines.append(f"{each.rate:7g} {each.good:7.1f} {each.good_share:6.1%} {took}  {outcomes}")
        if whole := each.stages_ms.get(TOTAL):
            shares = {stage: ms / whole for stage, ms in each.stages_ms.items() if stage != TOTAL}
            parts = ", ".join(
                f"{stage} {share:.0%}" for stage, share in sorted(shares.items(), key=lambda one: -one[1])
            )
            lines.append(f"{'':7} the server's {whole:.0f} ms: {parts}")
        told = [f"{each.cpu_ms:.0f} ms of a core for each answer"] if each.cpu_ms is not None else []
        told += [f"{each.mean_batch:.1f} images a run"] if each.mean_batch else []
        if told:
            lines.append(f"{'':7} {'; '.join(told)}")
        if (count := sum(each.outcomes.values())) < FEW:
            lines.append(f"{'':7} only {count} requests, which say little: measure for more --seconds")
        if each.late_ms > 1000 * LATE_S:
            lines.append(
                f"{'':7} sent up to {each.late_ms:.0f} ms too late: this machine is too slow to ask at this rate"
            )
    return "\n".join(lines)
