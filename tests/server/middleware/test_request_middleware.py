"""Request middleware: an id on every response, and CORS only for the configured origins."""

import re

import pytest

from tests.server.fakes import picture

ORIGIN = "https://app.example"


def detect(client, **headers):
    return client.post("/detect", files=[("image", ("a.png", picture()))], data={"labels": "dog"}, headers=headers)


@pytest.mark.parametrize(
    ("path", "status"), [("/livez", 200), ("/nothing", 404), ("/detect", 405), ("/docs", 200), ("/metrics", 200)]
)
def test_every_answer_has_the_requests_id(client, path, status):
    response = client.get(path, headers={"X-Request-ID": "trace-1/2:3"})
    assert (response.status_code, response.headers["x-request-id"]) == (status, "trace-1/2:3")
    if status >= 400:
        assert response.json()["request_id"] == "trace-1/2:3"


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, 'a"b', b"\xc3\xa9"])
def test_id_that_is_missing_or_unusable_is_made(client, given):
    first, second = (
        client.get("/livez", headers={"X-Request-ID": given} if given is not None else {}).headers["x-request-id"]
        for _ in range(2)
    )
    assert re.fullmatch("[0-9a-f]{32}", first)
    assert first != second


def test_problems_of_every_place_name_the_request(start, detector, tmp_path):
    client = start(max_body_bytes=2000)
    named = {"X-Request-ID": "mine"}
    assert client.post("/detect", content=b"x" * 3000, headers=named).json()["request_id"] == "mine"  # the middleware
    assert client.post("/detect", json={}, headers=named).json()["request_id"] == "mine"  # the route

    def fail():
        raise RuntimeError

    detector.before_run = fail
    assert detect(client, **named).json()["request_id"] == "mine"  # the model


def test_pages_of_other_origins_are_not_let_in_by_default(client):
    response = detect(client, Origin=ORIGIN)
    assert response.status_code == 200
    assert "access-control-allow-origin" not in response.headers
    assert (
        client.options("/detect", headers={"Origin": ORIGIN, "Access-Control-Request-Method": "POST"}).status_code
        == 405
    )


def preflight(client, origin=ORIGIN, **headers):
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"} | headers
    return client.options("/detect", headers=asked)


def test_named_origin_may_call_with_a_key_and_read_the_id(start):
    client = start(cors_origins=[ORIGIN])
    asked = preflight(client, **{"Access-Control-Request-Headers": "authorization, x-api-key, x-request-id"})
    assert (asked.status_code, asked.headers["access-control-allow-origin"]) == (200, ORIGIN)
    response = detect(client, Origin=ORIGIN)
    assert response.headers["access-control-allow-origin"] == ORIGIN
    assert "X-Request-ID" in response.headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in response.headers


def test_page_can_read_why_it_was_refused(start, tmp_path):
    file = tmp_path / "keys.txt"
    file.write_text(f"alice {'0' * 64}\n", encoding="utf-8")
    client = start(cors_origins=[ORIGIN], api_keys_file=file, max_body_bytes=1024)
    assert preflight(client).status_code == 200, "a browser sends no key ahead"
    response = detect(client, Origin=ORIGIN)
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (401, ORIGIN)


def test_other_origin_is_refused_with_a_problem(start):
    client = start(cors_origins=[ORIGIN])
    response = preflight(client, "https://evil.example")
    assert response.status_code == 400
    assert response.headers["content-type"] == "application/problem+json"
    assert "access-control-allow-origin" not in response.headers
    assert "x-request-id" in response.headers
    assert "access-control-allow-origin" not in detect(client, Origin="https://evil.example").headers


def test_star_lets_every_origin_in(start):
    assert detect(start(cors_origins=["*"]), Origin="https://any.example").headers["access-control-allow-origin"] == "*"


GETS = ["/", "/livez", "/readyz", "/metrics", "/models", "/docs", "/openapi.json", "/page/app.js", "/v2"]
GETS += ["/v2/health/live", "/v2/health/ready", "/v2/models/fake-detector", "/v2/models/fake-detector/ready"]


@pytest.mark.parametrize("path", GETS)
def test_head_is_answered_wherever_get_is(client, path):
    get, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    vary = {"x-request-id", "date", "content-length" if path == "/metrics" else ""}
    kept = [{name: value for name, value in answer.headers.items() if name not in vary} for answer in (get, head)]
    assert kept[0] == kept[1]


def test_head_where_there_is_no_get_is_refused(client):
    refusal = client.head("/detect")
    assert (refusal.status_code, refusal.headers["allow"], refusal.content) == (405, "POST", b"")
    assert client.post("/livez").headers["allow"] == "GET, HEAD"
    assert "head" not in client.get("/openapi.json").json()["paths"]["/livez"]


@pytest.mark.parametrize("asked", ["bytes=0-3", "bytes=9999999-", "bytes=5-1", "lines=1", "bytes=0-0," * 500, "x"])
def test_range_is_ignored(client, asked):
    answer = client.get("/page/app.js", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, client.get("/page/app.js").content)
    assert answer.headers["accept-ranges"] == "none"


def test_method_of_the_clients_own_is_not_logged(client, caplog):
    with caplog.at_level("INFO"):
        assert client.request("SECRET", "/livez").status_code == 405
    assert "method=_OTHER" in caplog.text
    assert "SECRET" not in caplog.messages[-1]
