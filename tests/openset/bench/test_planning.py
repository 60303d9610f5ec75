"""Plans: costs from figures, and the simulation beside the server's own queue and batches in real time."""

import random
import threading
import time
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openset.bench.planning import measured_costs, plan, planned_lines, simulated_latency
from openset.bench.report import RateFigures
from server.inference.batching import Batcher, BatchLimits
from server.telemetry.metrics import Metrics

PROMISE = {"objective_s": 0.5, "share": 0.95}


def figures(rate, *, batch, run_ms, runs=100, mean_ms=60.0, queue=0.0, infer=40.0):
    stages = {"queue": queue, "infer": infer, "total": mean_ms}
    latency = {"p50": mean_ms, "p90": mean_ms, "p99": mean_ms}
    return RateFigures(rate, rate, rate, 1.0, {"200": 100}, latency, stages, 0.0, mean_ms, 50.0, runs, batch, run_ms)


@given(st.floats(0, 0.1), st.floats(0.001, 0.1))
def test_costs_are_found_again_from_runs_of_several_sizes(setup_s, image_s):
    measured = [figures(n, batch=n, run_ms=1000 * (setup_s + n * image_s), runs=10 * n) for n in (1, 2, 5)]
    costs = measured_costs(measured, max_batch=8)
    assert costs.setup_s == pytest.approx(setup_s, abs=1e-6)
    assert costs.image_s == pytest.approx(image_s, abs=1e-6)
    assert costs.rest_s == pytest.approx(0.02)


def test_runs_of_one_size_promise_nothing_of_larger_ones():
    costs = measured_costs([figures(5, batch=1.0, run_ms=40), figures(9, batch=1.1, run_ms=40)], max_batch=8)
    assert costs.setup_s == pytest.approx(0)
    assert costs.image_s == pytest.approx(0.0381, abs=1e-3)


def test_server_that_hides_its_counts_has_no_costs():
    assert measured_costs([figures(5, batch=0.0, run_ms=0.0, runs=0)], max_batch=8) is None


def test_plan_has_replicas_and_what_many_of_them_sustain():
    measured = [figures(rate, batch=rate / 5, run_ms=10 + 6 * rate) for rate in (5, 10)]
    times = {each.rate: [0.1, 0.2, 0.9] for each in measured}
    made = plan(measured_costs(measured, max_batch=8), times, replicas=1, wanted=100, **PROMISE)
    assert made["sustained"]["10"] < made["sustained"]["100"] / 9 < made["sustained"]["1000"] / 90
    assert 100 / made["needed"] <= made["sustained"]["10"] / 10
    lines = planned_lines(made, measured, 100)
    assert f"100 requests a second need {made['needed']} replicas" in lines
    assert "measured 60 ms" in lines[1]


SETUP_S, IMAGE_S = 0.03, 0.02


class SleepingReplica:
    """The server's queue and worker, before a model whose runs take a time that grows with their size."""

    def __init__(self):
        self.runs, self.in_progress = [], 0
        limits = BatchLimits(capacity=64, max_batch=8)
        self.batcher = Batcher("fake", self._run, bucket=lambda _: 0, limits=limits, metrics=Metrics().of("fake"))

    def _run(self, items):
        began = time.monotonic()
        time.sleep(SETUP_S + IMAGE_S * len(items))
        self.runs.append((len(items), time.monotonic() - began))
        return items


def arriving(rate, count):
    chance, at = random.Random(5), 0.0
    for _ in range(count):
        yield (at := at + chance.expovariate(rate))


def real_run(rate, times, replicas):
    """Figures of requests that arrive at these seconds; each goes to the least busy replica."""
    made, lock = [SleepingReplica() for _ in range(replicas)], threading.Lock()
    took, waited, ran, futures = [], [], [], []
    began = time.monotonic()
    for at in times:
        due = began + at
        time.sleep(max(0.0, due - time.monotonic()))
        with lock:
            replica = min(made, key=lambda each: each.in_progress)
            replica.in_progress += 1

        def done(future, due=due, replica=replica):
            result = future.result()
            took.append(time.monotonic() - due)
            waited.append(result.started - result.queued)
            ran.append(result.ended - result.started)
            with lock:
                replica.in_progress -= 1

        with replica.batcher.reserve(1) as place:
            futures.append(place.submit(0))
            futures[-1].add_done_callback(done)
    for future in futures:
        future.result()
    for replica in made:
        replica.batcher.close(5)
    runs = [run for replica in made for run in replica.runs]
    return RateFigures(
        rate, rate, rate, 1.0, {}, {"p50": 1000 * sorted(took)[len(took) // 2]},
        {"queue": 1000 * fmean(waited), "infer": 1000 * fmean(ran)}, 0.0, 1000 * fmean(took), None,
        len(runs), fmean(size for size, _ in runs), 1000 * fmean(seconds for _, seconds in runs),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 3])
def test_simulation_is_within_15_percent_of_the_servers_scheduler(replicas):
    """At three rates up to where batches are half full, with costs from the same runs as `openset bench` has them."""
    times = {rate: list(arriving(rate * replicas, 120 * replicas)) for rate in (6, 15, 30)}
    measured = [real_run(rate, at, replicas) for rate, at in times.items()]
    costs = measured_costs(measured, max_batch=8)
    for each in measured:
        found = simulated_latency(costs, times[each.rate], replicas=replicas)
        print(
            f"{replicas} replicas, {each.rate}/s each: {each.mean_batch:.1f} a run, mean {each.mean_ms:.0f} ms,"
            f" simulated {found['mean']:.0f}; p50 {each.latency_ms['p50']:.0f}, simulated {found['p50']:.0f}"
        )
        assert found["mean"] == pytest.approx(each.mean_ms, rel=0.15), f"{each.rate} a second"
        assert found["p50"] == pytest.approx(each.latency_ms["p50"], rel=0.15), f"{each.rate} a second"
