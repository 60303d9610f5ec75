"""Facts of a server, and of all replicas behind an ingress."""

import asyncio

import httpx
import pytest

from openset.bench import server_metrics
from openset.bench.server_metrics import read_cpu_s, read_max_batch
from server.telemetry.metrics import Metrics

PAGE = """
openset_process_cpu_seconds_total 2.5
openset_decoder_cpu_seconds_total 5e-01
openset_executions_total{model="a"} 3.0
"""


def asked_by(read, respond):
    async def run():
        transport = httpx.MockTransport(respond)
        async with httpx.AsyncClient(base_url="http://openset.test", transport=transport) as client:
            return await read(client)

    return asyncio.run(run())


def read(respond):
    return asked_by(read_cpu_s, respond)


def test_names_are_those_that_the_server_has():
    metrics = Metrics()
    metrics.watch_decoders(lambda: 7.0)
    assert read(lambda _: httpx.Response(200, text=metrics.exposition().decode(), json=None)) is None, "no list"
    page = metrics.exposition().decode()
    assert read(lambda request: only(request, "/metrics", httpx.Response(200, text=page))) > 7


def only(request, path, answer):
    return answer if request.url.path == path else httpx.Response(404)


def test_server_alone_is_asked_for_its_own():
    assert read(lambda request: only(request, "/metrics", httpx.Response(200, text=PAGE))) == 3


def test_replicas_that_an_ingress_lists_are_all_asked():
    asked = []

    def respond(request):
        asked.append(str(request.url))
        if request.url.path == "/metrics/targets":
            labels = {"__metrics_path__": "/vision/metrics"}
            return httpx.Response(200, json=[{"targets": [f"10.0.0.{n}:30000"], "labels": labels} for n in (1, 2)])
        return httpx.Response(200, text=PAGE)

    assert read(respond) == 6
    assert asked[1:] == ["http://10.0.0.1:30000/vision/metrics", "http://10.0.0.2:30000/vision/metrics"]


BAD = {
    "refused": httpx.Response(403),
    "page": httpx.Response(200, text="a page"),
    "list": httpx.Response(200, json=[{}]),
    "number": httpx.Response(200, json=7),
    "depth": httpx.Response(200, content=b"[" * 100_000),
    "address": httpx.Response(200, json=[{"targets": [":::"], "labels": {"__metrics_path__": "/m"}}]),
    "unreachable": httpx.ConnectError("no"),
}


@pytest.mark.parametrize("answer", BAD.values(), ids=BAD)
def test_processor_time_that_is_not_to_be_had_is_none(answer):
    def respond(_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert read(respond) is None


def test_list_without_end_is_cut_short(monkeypatch):
    monkeypatch.setattr(server_metrics, "_MOST_TARGETS", 3)
    asked = []

    def respond(request):
        asked.append(request.url.path)
        listed = [{"targets": ["10.0.0.1:30000"], "labels": {"__metrics_path__": "/metrics"}}] * 10
        return httpx.Response(200, json=listed) if request.url.path == "/metrics/targets" else httpx.Response(404)

    assert read(respond) is None
    assert len(asked) == 4


def most(body):
    return asked_by(lambda client: read_max_batch(client, "b"), lambda _: httpx.Response(200, json=body))


def test_most_images_of_a_run_are_those_of_the_model():
    listed = [{"name": name, "limits": {"max_batch": count}} for name, count in (("a", 8), ("b", 3))]
    assert most({"models": listed}) == 3


@pytest.mark.parametrize("body", [[], {}, {"models": 1}, {"models": [{"name": "a"}]}, {"models": [{"name": "b"}]}])
def test_server_that_lists_no_such_model_has_no_most(body):
    assert most(body) is None


@pytest.mark.parametrize("count", [0, -1, 10**9, 2.5, "8", None])
def test_most_that_cannot_be_is_none(count):
    assert most({"models": [{"name": "b", "limits": {"max_batch": count}}]}) is None
