"""Tracing: a span for a request and for each of its stages, sent to the named collector and to nobody else."""

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from server.middleware.auth import digest_of
from server.settings import Settings, SettingsError
from server.telemetry.tracing import open_tracing
from tests.server.collector import Collector, attributes
from tests.server.fakes import picture
from tests.server.test_app import Held, ask, running, until, waiting
from tests.server.test_serve import ROOT, ended, free_port, started  # noqa: F401 (a fixture)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
STAGES = {"decode", "preprocess", "text_encode", "queue", "infer", "postprocess"}
OK, ERROR = 0, 2


@pytest.fixture
def collector():
    with Collector() as collector:
        yield collector


@pytest.fixture
def traced(collector):
    """Starts an app that is traced; when it has stopped, the collector has all its spans."""
    return lambda *bundles, **settings: running(*bundles, otlp_endpoint=collector.url, **settings)


def roots_of(collector):
    """The spans of requests by their trace's id."""
    return {span.trace_id: span for span in collector.named("POST /detect")}


def test_request_has_a_span_with_one_for_each_stage_within(traced, collector, detector):
    async def scene():
        async with traced(detector) as client:
            assert (await ask(client, "dog")).status_code == 200

    asyncio.run(scene())
    (root,) = collector.named("POST /detect")
    stages = [span for span in collector.spans if span.parent_span_id == root.span_id]
    assert {span.name for span in stages} == STAGES
    for span in stages:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= root.end_time_unix_nano
        assert span.trace_id == root.trace_id
    assert abs(root.start_time_unix_nano / 1e9 - time.time()) < 600, "times are times of day"
    assert attributes(root) == {
        "http.request.method": "POST", "http.route": "/detect", "http.response.status_code": 200,
        "openset.model": "fake-detector",
    }  # fmt: skip
    (infer,) = (span for span in stages if span.name == "infer")
    assert attributes(infer) == {
        "openset.model": "fake-detector", "openset.batch_size": 1, "openset.bucket": "32x48x16",
    }  # fmt: skip
    order = sorted((span for span in stages if span.name != "text_encode"), key=lambda span: span.start_time_unix_nano)
    assert [span.name for span in order] == ["decode", "preprocess", "queue", "infer", "postprocess"]
    assert collector.paths == {"/v1/traces"}
    assert collector.resource["service.name"] == "openset"


def test_run_of_a_batch_points_to_each_of_its_requests_and_they_to_it(traced, collector, detector):
    async def scene():
        held = Held(detector)
        async with traced(detector) as client:
            first = ask(client, "dog")
            await until(held.started.is_set)
            others = [ask(client, f"animal {number}", images=number) for number in (1, 2)]
            await until(lambda: waiting(client) == 3)
            held.gate.set()
            await asyncio.gather(first, *others)

    asyncio.run(scene())
    single, batch = sorted(collector.named("execution"), key=lambda span: len(span.links))
    assert attributes(batch)["openset.batch_size"] == 3, "one image of one request, two of the other"
    requests = roots_of(collector)
    assert len(requests) == 3
    for run, count in ((single, 1), (batch, 2)):
        assert not run.parent_span_id, "it belongs to no single request"
        assert len(run.links) == count
        for link in run.links:
            root = requests[link.trace_id]
            assert link.span_id == root.span_id
            inferred = [span for span in collector.named("infer") if span.trace_id == root.trace_id]
            assert {span.links[0].span_id for span in inferred} == {run.span_id}


def test_trace_of_the_client_goes_on_and_comes_back(traced, collector, detector):
    async def scene():
        async with traced(detector) as client:
            headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1"}
            files = [("image", picture())]
            answer = await client.post("/detect", files=files, data={"labels": "dog"}, headers=headers)
            return answer.headers["traceparent"]

    told = asyncio.run(scene())
    (root,) = collector.named("POST /detect")
    assert (root.trace_id.hex(), root.parent_span_id.hex(), root.trace_state) == (TRACE, SPAN, "vendor=1")
    assert told == f"00-{TRACE}-{root.span_id.hex()}-01"


@pytest.mark.parametrize("header", ["", "nonsense", f"00-{'0' * 32}-{SPAN}-01", f"00-{TRACE}-{SPAN}-01-more"])
def test_header_that_is_no_trace_begins_a_new_one(traced, collector, detector, header):
    async def scene():
        async with traced(detector) as client:
            answer = await client.get("/models", headers={"traceparent": header})
            assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[13]", answer.headers["traceparent"])

    asyncio.run(scene())
    (root,) = collector.named("GET /models")
    assert not root.parent_span_id
    assert root.trace_id.hex() != TRACE


def test_sampler_of_the_environment_leaves_requests_out_unless_they_say_themselves(
    traced, collector, detector, monkeypatch
):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")

    async def scene():
        async with traced(detector) as client:
            await ask(client, "dog")
            files, asked = [("image", picture())], {"traceparent": f"00-{TRACE}-{SPAN}-01"}
            await client.post("/detect", files=files, data={"labels": "dog"}, headers=asked)
            unasked = {"traceparent": f"00-{'1' * 32}-{SPAN}-00"}
            await client.post("/detect", files=files, data={"labels": "dog"}, headers=unasked)

    asyncio.run(scene())
    assert {span.trace_id.hex() for span in collector.spans if span.name != "execution"} == {TRACE}
    assert len(collector.named("execution")) == 1, "runs of requests that are left out are, too"


def test_failure_is_marked_and_refusal_is_not(traced, collector, detector):
    def fail():
        raise RuntimeError("secret cause")

    async def scene():
        async with traced(detector) as client:
            assert (await client.post("/detect", json={"nonsense": 1})).status_code == 422
            detector.before_run = fail
            assert (await ask(client, "dog")).status_code == 500

    asyncio.run(scene())
    found = {attributes(span)["http.response.status_code"]: span.status.code for span in roots_of(collector).values()}
    assert found == {422: OK, 500: ERROR}


def test_nothing_that_clients_send_is_in_a_span(traced, collector, detector, encoder, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text(f"alice {digest_of('osk_zebra')}\n")

    async def scene():
        async with traced(detector, encoder, api_keys_file=keys, url_images=True) as client:
            client.headers["X-API-Key"] = "osk_zebra"
            files = [("image", ("zebra.png", picture()))]
            assert (await client.post("/detect", files=files, data={"labels": "zebra"})).status_code == 200
            assert (await client.post("/similarity", files=files, data={"texts": "zebra"})).status_code == 200
            query = client.post("/classify?labels=zebra", content=picture(), headers={"Content-Type": "image/png"})
            assert (await query).status_code == 200
            await client.post("/detect", json={"image_url": "https://zebra.invalid/zebra", "labels": ["zebra"]})
            await client.post("/detect", files=files, data={"labels": "dog", "model": "zebra"})
            await client.get("/zebra?zebra=zebra", headers={"X-Request-ID": "zebra"})
            await client.request("ZEBRA", "/detect")

    asyncio.run(scene())
    assert len(collector.spans) > 20
    assert b"zebra" not in collector.raw.lower()
    assert picture() not in collector.raw
    assert "GET other" in {span.name for span in collector.spans}
    assert "_OTHER /detect" in {span.name for span in collector.spans}


def test_health_and_metrics_are_not_traced(traced, collector, detector):
    async def scene():
        async with traced(detector) as client:
            for path in ("/livez", "/readyz", "/metrics"):
                assert "traceparent" not in (await client.get(path)).headers

    asyncio.run(scene())
    assert collector.spans == []


def test_without_a_collector_nothing_is_recorded_and_no_trace_comes_back(detector):
    async def scene():
        async with running(detector) as client:
            client.headers["traceparent"] = f"00-{TRACE}-{SPAN}-01"
            assert "traceparent" not in (await ask(client, "dog")).headers

    asyncio.run(scene())


def test_collector_that_is_away_harms_nobody_and_delays_no_stop(traced, collector, detector):
    async def scene():
        async with running(detector, otlp_endpoint="http://127.0.0.1:9") as client:
            assert (await ask(client, "dog")).status_code == 200
            client.stopping = time.monotonic()
        return time.monotonic() - client.stopping

    assert asyncio.run(scene()) < 30


def test_stopped_process_has_sent_its_spans_and_logs_their_trace(collector, tmp_path, free_port):  # noqa: F811
    process = started(tmp_path, free_port, OPENSET_OTLP_ENDPOINT=collector.url, OPENSET_LOG_FORMAT="json")
    try:
        files = [("image", picture())]
        answer = httpx.post(process.url + "/detect", files=files, data={"labels": "dog"}, timeout=30)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    finally:
        ended(process)
    assert answer.status_code == 200
    (root,) = collector.named("POST /detect")
    assert answer.headers["traceparent"].split("-")[1:3] == [root.trace_id.hex(), root.span_id.hex()]
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["trace_id"] for line in lines if line.get("endpoint") == "/detect"] == [root.trace_id.hex()]


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(SettingsError, match=r"otlp_endpoint='http://c' needs .* SDK .* pip install .*\[otel\]'"):
        open_tracing(Settings(otlp_endpoint="http://c"))


def test_server_answers_without_the_extra():
    code = (
        "import sys\n"
        "sys.modules['opentelemetry.sdk'] = sys.modules['opentelemetry.exporter'] = None\n"
        "from pathlib import Path; import tempfile\n"
        "from fastapi.testclient import TestClient\n"
        "from server.app import create_app; from server.settings import Settings\n"
        "from tests.server.fakes import FakeDetector, picture\n"
        "app = create_app(Settings(), [FakeDetector(Path(tempfile.mkdtemp()))])\n"
        "with TestClient(app) as client:\n"
        "    print(client.post('/detect', files=[('image', picture())], data={'labels': 'dog'}).status_code)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "200\n", done.stderr


def test_frameworks_own_telemetry_is_off(collector, detector, monkeypatch):
    """FastAPI's would put the query into a span, and a query may hold labels."""
    code = (
        "import sys, tempfile; from pathlib import Path\n"
        "from fastapi.testclient import TestClient\n"
        "from server.app import create_app; from server.settings import Settings\n"
        "from tests.server.fakes import FakeDetector, picture\n"
        "app = create_app(Settings(), [FakeDetector(Path(tempfile.mkdtemp()))])\n"
        "with TestClient(app) as client:\n"
        "    client.get('/models?zebra')\n"
    )
    monkeypatch.setenv("FASTAPI_OTEL_AUTO_CONFIGURE", "true")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    subprocess.run([sys.executable, "-c", code], cwd=Path(ROOT), check=True)
    assert collector.raw == b""
