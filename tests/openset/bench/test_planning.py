"""Plans: costs from answers, and the simulation beside the server's own queue and batches in real time."""

import random
import threading
import time
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openset.bench.planning import measured_costs, plan, planned_lines, replayed_latency
from openset.bench.traffic import RequestOutcome
from server.inference.batching import Batcher, BatchLimits
from server.memory.heap import freeze_objects
from server.telemetry.metrics import Metrics

PROMISE = {"objective_s": 0.5, "share": 0.95}
REST_S = 0.02


def answer(*, infer_s, batch=1, shape="1", queue_s=0.0, at=0.0):
    stages = {"queue": 1000 * queue_s, "infer": 1000 * infer_s, "total": 1000 * (infer_s + queue_s)}
    return RequestOutcome("200", 0.0, infer_s + queue_s + REST_S, stages, at, batch, shape)


def run(size, seconds, shape="1"):
    """The answers of a run, which tell of it once for each image."""
    return [answer(infer_s=seconds, batch=size, shape=shape)] * size


@given(st.floats(0, 0.1), st.lists(st.floats(0.001, 0.1), min_size=1, max_size=3))
def test_costs_are_found_again_from_runs_of_several_sizes_and_shapes(setup_s, images_s):
    seen = [
        each
        for shape, image_s in enumerate(images_s)
        for size in (1, 2, 5)
        for each in run(size, setup_s + size * image_s, str(shape)) * 5
    ]
    found = measured_costs({1.0: seen}, max_batch=8)
    assert found.costs.setup_s == pytest.approx(setup_s, abs=1e-6)
    by_shape = dict(zip(found.shapes, found.costs.shapes, strict=True))
    for shape, image_s in enumerate(images_s):
        share, factor = by_shape[str(shape)]
        assert share == pytest.approx(1 / len(images_s))
        assert factor * found.costs.image_s == pytest.approx(image_s, abs=1e-6)
    assert found.costs.rest_s == pytest.approx(REST_S)
    assert all(found.pace(each) == pytest.approx(1) for each in seen)


def test_runs_of_one_size_promise_nothing_of_larger_ones():
    found = measured_costs({5.0: run(1, 0.04) * 100, 9.0: run(2, 0.04)}, max_batch=8)
    assert found.costs.setup_s == 0
    assert found.costs.image_s == pytest.approx(0.04, rel=0.03)


def test_machine_that_is_slower_under_load_makes_no_cost_negative():
    found = measured_costs({2.0: run(1, 0.05) * 50, 9.0: run(4, 0.5) * 50}, max_batch=8)
    assert found.costs.setup_s == 0
    assert found.costs.image_s > 0.05


CLAIMED = st.tuples(st.integers(1, 9999), st.floats(1e-12, 1e6), st.sampled_from("ab"))


@given(st.lists(CLAIMED, min_size=1, max_size=20))
def test_any_times_that_a_server_claims_give_costs_that_can_be_simulated(claimed):
    seen = [answer(infer_s=seconds, batch=size, shape=shape) for size, seconds, shape in claimed]
    found = measured_costs({1.0: seen}, max_batch=8)
    assert found.costs.setup_s >= 0
    assert found.costs.image_s >= 0
    assert all(factor >= 0 for _, factor in found.costs.shapes)
    assert found.costs.capacity > 0
    assert replayed_latency(found, seen, replicas=1)["mean"] >= 0


@pytest.mark.parametrize("told", [{"infer_s": 0.04, "batch": 0}, {"infer_s": 0.0}])
def test_server_that_tells_nothing_of_its_runs_has_no_costs(told):
    assert measured_costs({5.0: [answer(**told)], 9.0: []}, max_batch=8) is None


def test_plan_has_replicas_and_what_many_of_them_sustain():
    measured = {rate: [answer(infer_s=0.05, at=at) for at in (0.1, 0.2, 0.9)] for rate in (5, 10)}
    made = plan(measured_costs(measured, max_batch=8), measured, replicas=1, wanted=100, **PROMISE)
    assert made["sustained"]["10"] < made["sustained"]["100"] / 9 < made["sustained"]["1000"] / 90
    assert 100 / made["needed"] <= made["sustained"]["10"] / 10
    lines = planned_lines(made, measured, 100)
    assert f"100 requests a second need {made['needed']} replicas" in lines
    assert "      5/s mean 70 ms, measured 70 ms (+0%); p50 70 ms, measured 70 ms" in lines
    assert not any("pace" in line for line in lines)


def test_rate_at_which_the_machine_was_slower_is_told_and_simulated_at_that_pace():
    measured = {rate: [answer(infer_s=seconds, at=at) for at in range(50)] for rate, seconds in ((5, 0.04), (10, 0.06))}
    made = plan(measured_costs(measured, max_batch=8), measured, replicas=1, wanted=100, **PROMISE)
    assert made["pace"] == {"5": pytest.approx(0.8), "10": pytest.approx(1.2)}
    assert [made["latency_ms"][rate]["mean"] for rate in ("5", "10")] == pytest.approx([60, 80])
    assert sum("the machine's pace was another" in line for line in planned_lines(made, measured, 100)) == 2


SETUP_S, IMAGE_S = 0.03, (0.015, 0.03)
SHARES = (0.7, 0.3)


class SleepingReplica:
    """The server's queue and worker, before a model whose runs take a time that grows with their size and shape."""

    def __init__(self):
        self.in_progress = 0
        limits = BatchLimits(capacity=64, max_batch=4)
        self.batcher = Batcher("fake", self._run, bucket=lambda item: item, limits=limits, metrics=Metrics().of("fake"))

    def _run(self, items):
        assert len(set(items)) == 1
        time.sleep(SETUP_S + IMAGE_S[items[0]] * len(items))
        return items


def arriving(rate, count):
    chance, at = random.Random(5), 0.0
    for _ in range(count):
        yield (at := at + chance.expovariate(rate)), chance.choices((0, 1), SHARES)[0]


def real_run(planned, replicas):
    """Outcomes of requests that arrive at these seconds, of these shapes; each goes to the least busy replica."""
    made, lock = [SleepingReplica() for _ in range(replicas)], threading.Lock()
    outcomes, futures = {}, []
    began = time.monotonic()
    for number, (at, shape) in enumerate(planned):
        due = began + at
        time.sleep(max(0.0, due - time.monotonic()))
        with lock:
            replica = min(made, key=lambda each: each.in_progress)
            replica.in_progress += 1

        def done(future, number=number, at=at, due=due, replica=replica):
            seconds, result = time.monotonic() - due, future.result()
            stages = {"queue": result.started - result.queued, "infer": result.ended - result.started}
            told = {name: 1000 * value for name, value in stages.items()}
            outcomes[number] = RequestOutcome("200", 0.0, seconds, told, at, result.run.size, result.run.shape)
            with lock:
                replica.in_progress -= 1

        with replica.batcher.reserve(1) as place:
            futures.append(place.submit(shape))
            futures[-1].add_done_callback(done)
    for future in futures:
        future.result()
    for replica in made:
        replica.batcher.close(5)
    return [outcomes[number] for number in range(len(planned))]


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [1, 3])
def test_simulation_is_within_15_percent_of_the_servers_scheduler(replicas):
    """At three rates up to where batches are half full, with costs from the same runs as `openset bench` has them."""
    freeze_objects()  # as a server does
    planned = {rate: list(arriving(rate * replicas, 120 * replicas)) for rate in (5, 12, 24)}
    measured = {rate: real_run(each, replicas) for rate, each in planned.items()}
    found = measured_costs(measured, max_batch=4)
    assert len(found.shapes) == 2
    for rate, outcomes in measured.items():
        simulated = replayed_latency(found, outcomes, replicas=replicas)
        took = sorted(1000 * each.seconds for each in outcomes)
        print(
            f"{replicas} replicas, {rate}/s each: mean {fmean(took):.0f} ms, simulated {simulated['mean']:.0f};"
            f" p50 {took[len(took) // 2]:.0f}, simulated {simulated['p50']:.0f}"
        )
        assert simulated["mean"] == pytest.approx(fmean(took), rel=0.15), f"{rate} a second"
        assert simulated["p50"] == pytest.approx(took[len(took) // 2], rel=0.15), f"{rate} a second"
