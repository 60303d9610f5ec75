"""Open-loop traffic: on time, whatever the server does, and each request once."""

import asyncio
import time
from itertools import pairwise
from statistics import mean, pstdev

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openset.bench.traffic import Arrival, OpenLoop, arrivals

LABELS = [f"label {number}" for number in range(20)]


def planned(rate, seconds, *, seed=0, labels=LABELS, pictures=3):
    return list(arrivals(rate, seconds, pictures=pictures, labels=labels, seed=seed))


@given(st.integers(0, 1000), st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=30, unique=True))
def test_each_arrival_is_about_a_picture_and_some_of_the_labels(seed, labels):
    for arrival in planned(20, 2, seed=seed, labels=labels):
        assert 0 <= arrival.at < 2
        assert arrival.picture in range(3)
        assert 1 <= len(arrival.labels) == len(set(arrival.labels)) <= 8
        assert set(arrival.labels) <= set(labels)


def test_arrivals_have_the_rate_and_the_spread_of_poisson():
    made = planned(50, 200)
    gaps = [after.at - before.at for before, after in pairwise(made)]
    assert len(made) == pytest.approx(10_000, rel=0.05)
    # An exponential gap has a standard deviation as great as its mean: traffic that is even has none.
    assert pstdev(gaps) == pytest.approx(mean(gaps), rel=0.1)


def test_seed_gives_the_same_traffic_again():
    assert planned(10, 5, seed=7) == planned(10, 5, seed=7) != planned(10, 5, seed=8)


def ask(handler, arrived):
    async def run():
        transport = httpx.MockTransport(handler)
        async with httpx.AsyncClient(base_url="http://server", transport=transport) as client:
            return await OpenLoop(client, [b"picture"]).run(arrived)

    return asyncio.run(run())


def test_slow_server_delays_no_later_request_and_is_waited_for():
    seen = []

    async def slow(request):
        seen.append(time.monotonic())
        await asyncio.sleep(2)
        return httpx.Response(200, headers={"Server-Timing": "decode;dur=1.5, infer;dur=20, total;dur=30.25"})

    samples = ask(slow, [Arrival(0.05 * number, 0, ("dog",)) for number in range(5)])
    assert seen[-1] - seen[0] < 1.9
    assert all(2 <= sample.seconds < 8 for sample in samples)
    assert samples[0].stages_ms == {"decode": 1.5, "infer": 20.0, "total": 30.25}


def test_time_that_a_request_is_sent_too_late_belongs_to_its_latency():
    def blocking(request):
        time.sleep(0.2)  # keeps the client from sending the next
        return httpx.Response(200)

    samples = ask(blocking, [Arrival(0.0, 0, ("dog",)), Arrival(0.01, 0, ("dog",)), Arrival(0.02, 0, ("dog",))])
    assert samples[-1].seconds > 0.3
    assert any(sample.late_s > 0.1 for sample in samples)


def test_refusal_and_loss_are_outcomes_and_nothing_is_repeated():
    asked = []

    def refusing(request):
        asked.append(request)
        if len(asked) == 2:
            raise httpx.ReadError("reset")
        return httpx.Response(429, headers={"Retry-After": "0"})

    outcomes = [sample.outcome for sample in ask(refusing, [Arrival(0.0, 0, ("dog",))] * 3)]
    assert sorted(outcomes) == ["429", "429", "ReadError"]
    assert len(asked) == 3
