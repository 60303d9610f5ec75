"""Stage times: one observation feeds the answer, the header, the trace and the metrics."""

from concurrent.futures import Future

import pytest
from prometheus_client import CollectorRegistry, Histogram

from server.telemetry.stage_timer import FETCH, StageTimer
from server.telemetry.tracing import Trace


class RecordedTrace(Trace):
    def __init__(self):
        self.spans = []

    def stage(self, name, started, ended, attributes=None, to=None):
        self.spans.append((name, started, ended, attributes, to))


@pytest.fixture
def histogram():
    return Histogram("seconds", "text", buckets=(1, 10), registry=CollectorRegistry())


def observed(histogram):
    (family,) = histogram.collect()
    return {
        sample.name.removeprefix("seconds_"): sample.value for sample in family.samples if "le" not in sample.labels
    }


def test_stage_reaches_answer_header_trace_and_metrics(histogram):
    trace = RecordedTrace()
    timer = StageTimer(trace)
    timer.observe("decode", 10.0, 12.5, histogram, attributes={"a": 1}, link="run")
    assert timer.timings_ms()["decode"] == 2500
    assert timer.server_timing() == "decode;dur=2500"
    assert trace.spans == [("decode", 10.0, 12.5, {"a": 1}, "run")]
    assert observed(histogram) == {"count": 1, "sum": 2.5}


def test_of_several_images_the_slowest_counts_and_each_is_traced(histogram):
    trace = RecordedTrace()
    timer = StageTimer(trace)
    for seconds in (1, 3, 2):
        timer.observe("decode", 0, seconds, histogram)
    assert timer.timings_ms()["decode"] == 3000
    assert len(trace.spans) == 3
    assert observed(histogram) == {"count": 3, "sum": 6}


def test_description_is_that_of_the_slowest_and_stands_in_the_header_alone():
    timer = StageTimer()
    for seconds, description in ((1, "1 of 8x8"), (3, "2 of 8x8"), (2, "3 of 8x8")):
        timer.observe("infer", 0, seconds, description=description)
    assert timer.server_timing() == 'infer;dur=3000;desc="2 of 8x8"'
    assert timer.timings_ms()["infer"] == 3000


def test_stage_that_fails_counts_in_the_histogram_alone(histogram):
    timer = StageTimer()
    with pytest.raises(ValueError, match="x"), timer.timed("postprocess", histogram):
        raise ValueError("x")
    assert "postprocess" not in timer.timings_ms()
    assert observed(histogram)["count"] == 1


def test_fetching_is_in_the_header_and_not_in_the_answer():
    timer = StageTimer()
    timer.observe(FETCH, 0, 1)
    with timer.total():
        assert list(timer.timings_ms()) == ["total"]
    assert timer.server_timing().startswith("fetch;dur=1000, total;dur=")


def test_request_that_reached_no_stage_has_no_header():
    assert StageTimer().server_timing() == ""


def test_current_stage_follows_the_queued_images():
    timer, first, second = StageTimer(), Future(), Future()
    assert timer.current_stage == "prepare"
    timer.queued(first)
    timer.queued(second)
    assert timer.current_stage == "queue"
    first.cancel()
    assert timer.current_stage == "queue"
    second.set_running_or_notify_cancel()
    assert timer.current_stage == "infer"
