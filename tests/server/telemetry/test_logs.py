"""Access log: a line per request, text or JSON, with its id and nothing that a client sent."""

import json
import logging
import re

import pytest

from server.middleware.auth import digest_of
from server.request_context import RequestContext
from server.settings import Settings
from server.telemetry.logs import JsonLines, TextLines, configure, current
from tests.server.fakes import picture

SECRET, KEY = "zebra", "osk_very-secret"


@pytest.fixture
def log(caplog):
    caplog.set_level("DEBUG")
    return caplog


@pytest.fixture(autouse=True)
def no_caller():
    token = current.set(None)
    yield
    current.reset(token)


def lines(log, formatter, logger="server.access"):
    return [formatter.format(record) for record in log.records if record.name == logger]


def detect(client, path="/detect", headers=None, **fields):
    data = {"labels": SECRET} | fields
    return client.post(path, files=[("image", ("a.png", picture()))], data=data, headers=headers)


def test_request_is_one_line_of_text(client, log):
    detect(client)
    (line,) = lines(log, TextLines())
    pattern = (
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO server.access: method=POST endpoint=/detect status=200"
        r" model=fake-detector ms=[\d.]+ client=testclient"
    )
    assert re.fullmatch(pattern, line)


def test_request_is_one_object_of_json(client, log):
    detect(client, labels="")
    (line,) = map(json.loads, lines(log, JsonLines()))
    assert line.pop("time").endswith("Z")
    assert line.pop("ms") > 0
    assert line == {
        "level": "info", "logger": "server.access", "message": "request", "method": "POST", "endpoint": "/detect",
        "status": 422, "model": "none", "client": "testclient",
    }  # fmt: skip


def test_lines_of_a_request_carry_its_id(log):
    current.set(RequestContext(request_id="mine"))
    logging.getLogger("server.x").info("something")
    assert lines(log, TextLines(), "server.x")[0].endswith("INFO server.x: something id=mine")
    assert json.loads(lines(log, JsonLines(), "server.x")[0])["request_id"] == "mine"


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_traceback_is_kept(log, formatter):
    try:
        raise RuntimeError("cause")
    except RuntimeError:
        logging.getLogger("server.x").exception("failed")
    (line,) = lines(log, formatter, "server.x")
    assert "RuntimeError: cause" in line
    assert isinstance(formatter, TextLines) or json.loads(line)["message"] == "failed"


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_line_is_bounded_whatever_a_request_holds(start, log, formatter):
    client = start(log_inputs=True)
    client.post("/detect", files=[("image", ("a.png", picture()))], data={"labels": ["x" * 1000] * 900})
    client.get("/" + "y" * 60_000)
    try:
        raise RuntimeError("z" * 100_000)
    except RuntimeError:
        logging.getLogger("server.access").exception("w" * 100_000)
    written = lines(log, formatter)
    assert len(written) == 3
    assert all(len(line) < 30_000 for line in written)
    assert isinstance(formatter, TextLines) or all(map(json.loads, written))


def test_method_that_a_client_made_up_is_not_logged(client, log):
    client.request(SECRET.upper(), "/models")
    (line,) = lines(log, TextLines())
    assert "method=_OTHER" in line
    assert SECRET.upper() not in line


def test_good_answers_to_machines_that_poll_are_told_in_detail_only(client, log):
    client.get("/livez")
    client.get("/models")
    assert [(r.levelname, r.fields["endpoint"]) for r in log.records if r.name == "server.access"] == [
        ("DEBUG", "/livez"), ("INFO", "/models"),
    ]  # fmt: skip


def everything(start, tmp_path, **settings):
    file = tmp_path / "keys.txt"
    file.write_text(f"alice {digest_of(KEY)}\n", encoding="utf-8")
    client = start(api_keys_file=file, **settings)
    key = {"Authorization": f"Bearer {KEY}"}
    assert detect(client, headers=key).status_code == 200
    assert detect(client, headers={"X-API-Key": KEY + "x"}).status_code == 401
    assert detect(client, headers=key, prompt=SECRET).status_code == 422
    assert client.get(f"/{SECRET}", headers=key).status_code == 404
    raw = {"Content-Type": "image/png"} | key
    assert client.post(f"/detect?labels={SECRET}", content=picture(), headers=raw).status_code == 200
    url = {"image_url": f"https://{SECRET}.example/", "labels": ["dog"]}
    assert client.post("/detect", json=url, headers=key).status_code == 422


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_nothing_a_client_sent_is_logged(start, log, tmp_path, formatter):
    everything(start, tmp_path)
    written = "\n".join(formatter.format(record) for record in log.records if record.name.startswith("server"))
    assert written.count("endpoint") == 6
    assert SECRET not in written
    assert KEY not in written
    assert "alice" in written


@pytest.mark.parametrize("formatter", [TextLines(), JsonLines()])
def test_inputs_are_logged_where_the_operator_wants_them_but_no_key(start, log, tmp_path, formatter):
    everything(start, tmp_path, log_inputs=True)
    written = [formatter.format(record) for record in log.records if record.name == "server.access"]
    assert [SECRET in line for line in written] == [True, False, False, True, True, True]
    assert KEY not in "".join(written)


def test_input_cannot_write_lines_of_its_own(start, log):
    client = start(log_inputs=True)
    detect(client, labels="a\nINFO forged: line\u2028x")
    client.get("/a%0AINFO")
    for formatter in (TextLines(), JsonLines()):
        assert all(len(line.splitlines()) == 1 for line in lines(log, formatter))


def test_format_is_a_setting(capsys):
    configure(Settings(log_format="json", log_level="warning"))
    logging.getLogger("uvicorn.error").warning("listening")
    logging.getLogger("server.x").info("detail")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "listening"


def test_server_timing_tells_the_stages(client):
    response = detect(client)
    timings = dict(part.split(";dur=") for part in response.headers["server-timing"].split(", "))
    assert set(timings) == set(response.json()["timings_ms"])
    seconds, _, description = timings["infer"].partition(";desc=")
    assert float(seconds) == pytest.approx(response.json()["timings_ms"]["infer"], rel=1e-3)
    assert description == '"1 of 32x48x16"'


def test_drawing_has_server_timing_too(client):
    assert "infer;dur=" in detect(client, headers={"Accept": "image/png"}).headers["server-timing"]


def test_failure_tells_the_stages_it_reached(client, detector):
    def fail():
        raise RuntimeError

    detector.before_run = fail
    response = detect(client)
    assert response.status_code == 500
    assert "decode;dur=" in response.headers["server-timing"]
