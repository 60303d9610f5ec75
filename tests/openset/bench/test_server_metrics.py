"""Counts of a server, and of all replicas behind an ingress."""

import asyncio

import httpx
import pytest

from openset.bench.server_metrics import ServerCounts, read_counts
from server.telemetry.metrics import Metrics

PAGE = """
openset_process_cpu_seconds_total 2.5
openset_decoder_cpu_seconds_total 0.5
openset_executions_total{model="a"} 3.0
openset_executions_total{model="b"} 1.0
openset_inferences_total{model="a"} 9.0
openset_infer_duration_seconds_sum{model="a"} 1e-01
openset_infer_duration_seconds_bucket{model="a",le="+Inf"} 3.0
"""


def counted(respond):
    async def read():
        transport = httpx.MockTransport(respond)
        async with httpx.AsyncClient(base_url="http://openset.test", transport=transport) as client:
            return await read_counts(client)

    return asyncio.run(read())


def test_counts_are_sums_over_models_and_pages():
    assert ServerCounts.of([PAGE, PAGE]) == ServerCounts(6.0, 8.0, 18.0, 0.2)


def test_names_are_those_that_the_server_has():
    metrics = Metrics()
    metrics.watch_decoders(lambda: 7.0)
    of_model = metrics.of("fake")
    of_model.executions.inc()
    of_model.inferences.inc(4)
    of_model.infer_duration.observe(0.5)
    found = ServerCounts.of([metrics.exposition().decode()])
    assert found.cpu_s > 7
    assert (found.runs, found.images, found.run_s) == (1, 4, 0.5)


def test_server_alone_is_asked_for_its_own():
    def respond(request):
        return httpx.Response(200, text=PAGE) if request.url.path == "/metrics" else httpx.Response(404)

    assert counted(respond) == ServerCounts(3.0, 4.0, 9.0, 0.1)


def test_replicas_that_an_ingress_lists_are_all_asked():
    asked = []

    def respond(request):
        asked.append(str(request.url))
        if request.url.path == "/metrics/targets":
            labels = {"__metrics_path__": "/vision/metrics"}
            return httpx.Response(200, json=[{"targets": [f"10.0.0.{n}:30000"], "labels": labels} for n in (1, 2)])
        return httpx.Response(200, text=PAGE)

    assert counted(respond).runs == 8
    assert asked[1:] == ["http://10.0.0.1:30000/vision/metrics", "http://10.0.0.2:30000/vision/metrics"]


@pytest.mark.parametrize(
    "answer",
    [httpx.Response(403), httpx.Response(200, text="a page"), httpx.Response(200, json=[{}]), httpx.ConnectError("no")],
    ids=["refused", "page", "list", "unreachable"],
)
def test_counts_that_are_not_to_be_had_are_none(answer):
    def respond(request):
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert counted(respond) is None


def test_replica_that_started_anew_has_no_difference():
    before, after = ServerCounts(3.0, 4.0, 9.0, 0.1), ServerCounts(5.0, 5.0, 11.0, 0.2)
    assert after.since(before) == ServerCounts(2.0, 1.0, 2.0, 0.1)
    assert before.since(after) is None
