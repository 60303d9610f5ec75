"""The simulation beside closed forms of queueing theory, and beside the server's own scheduler."""

import math
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openset.bench.simulation import ServingCosts, needed_replicas, replay, simulate, sustained_rate

MANY = 60_000


def exponential(chance, _):
    return chance.expovariate(1.0)


def erlang_c(servers, load):
    """Share of the requests of M/M/c that wait."""
    terms = [load**k / math.factorial(k) for k in range(servers)]
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    return last / (sum(terms) + last)


@pytest.mark.parametrize("used", [0.3, 0.6, 0.8])
def test_one_image_a_run_waits_as_in_m_d_1(used):
    costs = ServingCosts(setup_s=0.0, image_s=1.0, max_batch=1, max_queue=10**6)
    found = fmean(simulate(costs, rate=used, requests=MANY).latencies_s)
    assert found == pytest.approx(1 + used / (2 * (1 - used)), rel=0.05)


@pytest.mark.parametrize("used", [0.3, 0.6, 0.8])
def test_run_times_that_vary_wait_as_in_m_m_1(used):
    costs = ServingCosts(setup_s=1.0, image_s=0.0, max_batch=1, max_queue=10**6, spread=exponential)
    assert fmean(simulate(costs, rate=used, requests=MANY).latencies_s) == pytest.approx(1 / (1 - used), rel=0.07)


@pytest.mark.parametrize(("servers", "used"), [(2, 0.7), (4, 0.8), (8, 0.85)])
def test_decoders_wait_as_in_m_m_c(servers, used):
    costs = ServingCosts(0.0, 0.0, decode_s=1.0, decoders=servers, max_queue=10**6, spread=exponential)
    load = servers * used
    expected = 1 + erlang_c(servers, load) / (servers - load)
    assert fmean(simulate(costs, rate=load, requests=MANY).latencies_s) == pytest.approx(expected, rel=0.07)


@pytest.mark.parametrize("replicas", [2, 8])
def test_replicas_with_queues_of_their_own_lie_between_one_queue_for_all_and_queues_by_chance(replicas):
    costs = ServingCosts(setup_s=1.0, image_s=0.0, max_batch=1, max_queue=10**6, spread=exponential)
    load = 0.8 * replicas
    found = fmean(simulate(costs, rate=load, replicas=replicas, requests=MANY).latencies_s)
    assert 0.95 * (1 + erlang_c(replicas, load) / (replicas - load)) < found < 1 / (1 - 0.8)


def test_batches_carry_what_single_images_could_not():
    costs = ServingCosts(setup_s=0.9, image_s=0.1, max_batch=8)
    assert simulate(costs, rate=4.0, requests=4000).refused == 0
    alone = ServingCosts(setup_s=0.9, image_s=0.1, max_batch=1)
    assert simulate(alone, rate=4.0, requests=4000).refused > 2000


def test_images_of_other_shapes_run_apart():
    """The first alone, then all of the shape that waits longest, then the others."""
    costs = ServingCosts(setup_s=1.0, image_s=0.0, max_batch=8, shapes=((0.5, 1.0), (0.5, 1.0)))
    at_once = [0.0] * 8
    assert replay(costs, at_once, shapes=[0, 1] * 4).latencies_s == [1.0] + [2.0] * 4 + [3.0] * 3
    assert replay(costs, at_once, shapes=[0] * 8).latencies_s == [1.0] + [2.0] * 7


def test_larger_shapes_take_longer():
    costs = ServingCosts(setup_s=0.5, image_s=1.0, shapes=((0.5, 0.5), (0.5, 1.5)))
    assert replay(costs, [0.0, 10.0], shapes=[0, 1]).latencies_s == [1.0, 2.0]


def test_shapes_are_drawn_by_their_shares():
    costs = ServingCosts(setup_s=0.0, image_s=1.0, shapes=((0.8, 0.5), (0.2, 3.0)))
    found = simulate(costs, rate=0.001, requests=5000).latencies_s
    assert sum(each < 1 for each in found) / len(found) == pytest.approx(0.8, abs=0.02)


def test_full_queue_refuses_what_is_beyond_the_capacity():
    costs = ServingCosts(setup_s=0.0, image_s=1.0, max_batch=4, max_queue=16)
    found = simulate(costs, rate=2.0, requests=20_000)
    assert found.refused / (found.refused + len(found.latencies_s)) == pytest.approx(0.5, abs=0.02)
    assert max(found.latencies_s) <= 16 + 4 + 4


@settings(max_examples=20, deadline=None)
@given(setup=st.floats(0, 0.1), image=st.floats(0.001, 0.1), replicas=st.integers(1, 5), used=st.floats(0.05, 1.5))
def test_every_request_has_one_end_and_none_is_faster_than_its_work(setup, image, replicas, used):
    costs = ServingCosts(setup, image, decode_s=0.01, rest_s=0.002)
    found = simulate(costs, rate=used * replicas * costs.capacity, replicas=replicas, requests=2000)
    assert 1700 <= len(found.latencies_s) + found.refused <= 1900, "but for the first tenth"
    assert min(found.latencies_s) >= 0.012 + setup + image - 1e-9


def test_rate_of_many_replicas_grows_faster_than_their_number():
    costs = ServingCosts(setup_s=0.01, image_s=0.03)
    one, ten, hundred = (
        sustained_rate(costs, replicas=count, objective_s=0.2, share=0.95) / count for count in (1, 10, 100)
    )
    assert one < ten <= hundred * 1.02 < 1.1 * costs.capacity


@pytest.mark.parametrize("replicas", [1, 3, 10])
def test_replicas_needed_are_those_that_sustain_the_rate(replicas):
    costs, promise = ServingCosts(setup_s=0.01, image_s=0.03), {"objective_s": 0.2, "share": 0.95}
    rate = sustained_rate(costs, replicas=replicas, **promise)
    assert needed_replicas(costs, rate=0.98 * rate, **promise) == replicas
    assert needed_replicas(costs, rate=1.05 * rate, **promise) == replicas + 1


def test_more_replicas_than_anyone_has_are_not_simulated():
    assert needed_replicas(ServingCosts(0.0, 1e5), rate=10, objective_s=1e6, share=0.95) is None


def test_objective_below_the_work_itself_needs_replicas_without_end():
    assert needed_replicas(ServingCosts(0.0, 0.3), rate=10, objective_s=0.2, share=0.95) is None
