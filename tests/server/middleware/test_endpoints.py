"""Endpoints: limits, deadlines, keys and metrics follow the route that runs, however its path is spelled."""

import re
import time

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Match, Mount, Route

from server.app import create_app
from server.middleware.auth import digest_of
from server.middleware.endpoints import ENDPOINTS, INFERENCE_ENDPOINTS, OTHER, Endpoints
from server.settings import Settings
from tests.server.fakes import picture

TEMPLATES = ["/", "/livez", "/detect", "/v2/models/{name}/infer", "/v2/models/{name}", "/page/{path:path}"]
# What spells the end of a path in another way, as it is sent.
ENDINGS = [
    "%0A",
    "%0a",
    "%0D",
    "%0D%0A",
    "%0A%0A",
    "%00",
    "%20",
    "/",
    "//",
    "%2F",
    "/%0A",
    ";a",
    "%3Fa",
    "%23",
    "%E2%80%A8",
    ".",
]
PATHS = [
    "/detect",
    "/classify",
    "/similarity",
    "/v2/models/fake-detector/infer",
    "/v2/models/fake-detector/versions/1/infer",
]


def paths_of(client):
    return [re.sub(r"{\w+}", "x", path) for path in client.app.openapi()["paths"]] + ["/docs", "/openapi.json", "/"]


def counted(client):
    text = client.get("/metrics").text
    return {found[0]: found[1] for found in re.findall(r'requests_total\{endpoint="([^"]*)",status="(\d+)"', text)}


def sent(client, path, **headers):
    files = [("image", ("a.png", picture()))]
    return client.post(path, files=files, data={"labels": "dog"}, headers=headers)


@given(
    st.lists(
        st.sampled_from(["/", "livez", "detect", "v2", "models", "a", "infer", "page", "\n", "\r", " ", "%0A", ".."])
    )
)
def test_route_that_a_router_would_run_is_the_endpoint_or_none(pieces):
    path = "".join(["/", *pieces])
    scope = {"type": "http", "path": path, "method": "GET"}
    routes = [Route(template, lambda request: None) for template in TEMPLATES]
    ran = [template for route, template in zip(routes, TEMPLATES, strict=True) if route.matches(scope)[0] != Match.NONE]
    found = Endpoints(TEMPLATES).of(scope)
    assert found in {OTHER, *(Endpoints([template]).of(scope) for template in ran[:1])}
    if ran and "\n" not in path:
        assert found != OTHER


def test_every_route_is_an_endpoint_of_the_limits_and_the_metrics(tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text(f"ann {digest_of('osk_ann')} admin\n")
    app = create_app(Settings(bundle_roots=[tmp_path], api_keys_file=keys), [])
    client = TestClient(app)
    assert {"/detect", "/admin/bundles/x", "/"} <= set(paths_of(client))
    for path in paths_of(client):
        client.get(path, headers={"X-API-Key": "osk_ann"})
    seen = set(re.findall(r'requests_total\{endpoint="([^"]*)"', app.state.service.metrics.exposition().decode()))
    assert OTHER not in seen
    assert seen <= ENDPOINTS
    assert set(INFERENCE_ENDPOINTS) <= seen


@pytest.mark.parametrize("ending", ENDINGS)
def test_other_spelling_of_a_path_reaches_no_route(client, detector, ending):
    runs = len(detector.runs)
    for path in paths_of(client):
        for method in ("GET", "POST", "HEAD", "PUT") if path != "/" else ():
            assert client.request(method, f"{path}{ending}").status_code in (404, 405), (method, path)
    assert len(detector.runs) == runs
    assert set(counted(client)) <= {OTHER, "/jobs", "/v2/models/:name", "/v2/models/:name/infer", "/metrics"}


@pytest.mark.parametrize("ending", ["", *ENDINGS])
@pytest.mark.parametrize("path", PATHS)
def test_no_spelling_passes_a_deadline(client, detector, path, ending):
    detector.before_run = lambda: time.sleep(0.05)
    runs = len(detector.runs)
    answer = sent(client, path + ending, **{"X-Request-Timeout-Ms": "1"})
    assert answer.status_code in (404, 405, 422, 400, 504)
    assert len(detector.runs) == runs or answer.status_code == 504


@pytest.mark.parametrize("ending", ["", *ENDINGS])
def test_no_spelling_passes_the_keys(start, tmp_path, ending):
    keys = tmp_path / "keys.txt"
    keys.write_text(f"alice {digest_of('osk_alice')}\n")
    client = start(api_keys_file=keys)
    assert [sent(client, path + ending).status_code for path in PATHS] == [401] * len(PATHS)
    assert client.get(f"/metrics{ending}").status_code == 401
    assert sent(client, f"/jobs/detect{ending}").status_code == client.get(f"/jobs{ending}").status_code == 401


def test_limits_hold_below_the_path_of_another_app(detector, encoder):
    inner = create_app(Settings(max_body_bytes=1024, decode_threads=1), [detector, encoder])
    with TestClient(inner), TestClient(Starlette(routes=[Mount("/vision", inner)])) as client:
        assert client.get("/vision/livez").status_code == 200
        assert sent(client, "/vision/detect", **{"X-Request-Timeout-Ms": "0"}).status_code == 422
        assert client.post("/vision/detect", content=b"x" * 2000).status_code == 413
        assert client.get("/vision/detect%0A").status_code == 404
        assert "error" in client.post("/vision/v2/models/none/infer", json={"inputs": []}).json()
    metrics = inner.state.service.metrics.exposition().decode()
    assert 'endpoint="/detect",status="422"' in metrics


def test_route_at_a_root_path_keeps_its_limits(detector, encoder):
    app = create_app(Settings(decode_threads=1), [detector, encoder])
    with TestClient(app, root_path="/vision") as client:
        for path in ("/detect", "/vision/detect"):
            assert sent(client, path, **{"X-Request-Timeout-Ms": "0"}).status_code == 422
        assert sent(client, "/vision/detect%0A").status_code == 404
