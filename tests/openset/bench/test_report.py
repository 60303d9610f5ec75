"""Figures of a benchmark, from outcomes that are made up."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openset.bench.report import RateFigures, document, needed, plot, quantile, sustained, table
from openset.bench.traffic import RequestOutcome


def samples(*seconds, outcome="200", late_s=0.0):
    return [RequestOutcome(outcome, late_s, each, {"decode": 10.0, "infer": 30.0, "total": 50.0}) for each in seconds]


def figures(found, *, rate=10.0, seconds=2.0, objective_s=0.5):
    return RateFigures.of(found, rate=rate, seconds=seconds, objective_s=objective_s)


def test_goodput_counts_answers_within_the_objective_among_all_requests():
    made = figures([*samples(0.1, 0.2, 0.5), *samples(0.9), *samples(0.01, outcome="429")])
    assert (made.offered, made.good, made.good_share) == (2.5, 1.5, 0.6)
    assert made.outcomes == {"200": 4, "429": 1}
    assert made.latency_ms == {"p50": 200, "p90": 900, "p99": 900}
    assert made.stages_ms == {"decode": 10, "infer": 30, "total": 50}


def test_rate_without_answers_has_no_latency():
    made = figures(samples(1.0, outcome="ConnectError"))
    assert (made.good, made.latency_ms, made.stages_ms) == (0, {}, {})
    assert "ConnectError: 1" in table([made])


@pytest.mark.parametrize(("count", "few"), [(4, True), (30, False)])
def test_figures_of_few_requests_are_told_to_say_little(count, few):
    assert (f"only {count} requests" in table([figures(samples(*[0.1] * count))])) == few


@given(st.lists(st.floats(0, 100), min_size=1, max_size=50), st.floats(0.01, 1))
def test_quantile_is_a_value_that_the_share_does_not_exceed(values, share):
    found = quantile(values, share)
    assert found in values
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    assert sum(value < found for value in values) < share * len(values) + 1e-9


def test_processor_time_is_for_each_answer_and_images_for_each_run():
    """A run of two images is told of by two answers."""
    told = [replace(each, batch=size) for each, size in zip(samples(0.1, 0.2, 0.3), (1, 2, 2), strict=True)]
    made = RateFigures.of(told, rate=1, seconds=3, objective_s=1, cpu_s=0.3)
    assert (made.cpu_ms, made.mean_batch, made.mean_ms) == (100, 1.5, 200)
    assert "100 ms of a core for each answer; 1.5 images a run" in table([made])


def test_server_that_tells_neither_has_no_line_of_them():
    assert "images a run" not in table([figures(samples(0.1))])


def test_plot_has_a_line_for_each_quantile():
    drawn = plot([figures(samples(0.1, 0.2)), figures(samples(0.3), rate=20)])
    assert drawn.count("<polyline") == 3
    with pytest.raises(ValueError, match="nothing to plot"):
        plot([figures(samples(1.0, outcome="429"))])


def test_rate_is_sustained_where_all_lower_ones_are_too():
    def at(rate, *, good):
        return RateFigures(rate, rate, rate * good, good, {}, {}, {}, 0.0)

    assert sustained([at(5, good=1.0), at(10, good=0.97), at(20, good=0.5)], 0.95) == 10
    assert sustained([at(5, good=0.5), at(10, good=1.0)], 0.95) == 0
    assert sustained([at(20, good=0.99), at(5, good=0.99)], 0.95) == 20


@pytest.mark.parametrize(("wanted", "rate", "replicas", "count"), [(100, 10, 1, 10), (101, 10, 1, 11), (100, 30, 2, 7)])
def test_replicas_are_rounded_up(wanted, rate, replicas, count):
    assert needed(wanted, rate=rate, replicas=replicas) == count


def test_table_has_the_shares_of_stages_and_says_where_the_client_is_too_slow():
    printed = table([figures(samples(0.1, 0.2, late_s=0.5))])
    assert "the server's 50 ms: infer 60%, decode 20%" in printed
    assert "sent up to 500 ms too late" in printed
    assert "too late" not in table([figures(samples(0.1))])


def test_document_is_json():
    made = document([figures(samples(0.1))], {"url": "http://server"}, {"sustained": 10.0})
    assert json.loads(json.dumps(made))["rates"][0]["good_share"] == 1.0
