"""What is no HTTP request is refused with a problem, and whatever comes leaves the server well."""

import json
import socket
import time

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.app import create_app
from server.middleware import uvicorn_protocol as wire
from server.settings import Settings
from tests.server.fakes import FakeEncoder, picture
from tests.server.listening import listening

SOON = 30
START = b"POST /classify?labels=r HTTP/1.1\r\nHost: a\r\n"
BROKEN = {
    "words": b"hello\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "length": START + b"Content-Length: x\r\n\r\n",
    "chunk": START + b"Transfer-Encoding: chunked\r\nContent-Type: image/png\r\n\r\nzz\r\n",
    "control character": START + b"X-Priority: \0\r\n\r\n",
}
LINES = st.lists(
    st.one_of(st.binary(max_size=30), st.sampled_from([b"Content-Length: 9", b"Transfer-Encoding: chunked"]))
)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    app = create_app(Settings(decode_threads=1, warm_up="none"), [FakeEncoder(tmp_path_factory.mktemp("encoder"))])
    with listening(app) as (address, _):
        yield address


def said(address, data):
    """What the server answers until it closes; after `data` nothing more is sent."""
    with socket.create_connection(address, timeout=SOON) as client, client.makefile("rb") as answer:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        return answer.read()


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_request_is_refused_with_a_problem(address, data):
    head, _, body = said(address, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"content-type: application/problem+json" in head.lower()
    assert json.loads(body)["type"] == "urn:openset:problem:malformed-request"


@settings(suppress_health_check=list(HealthCheck))
@given(st.one_of(st.binary(max_size=300), LINES.map(lambda lines: START + b"\r\n".join(lines) + b"\r\n\r\nbody")))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3 + b"\0")
def test_any_bytes_over_a_connection_leave_the_server_well(address, data):
    answers = said(address, data)
    assert b"HTTP/1.1 5" not in answers
    assert said(address, b"GET /readyz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "sent", [b"", b"POST /classify HTTP/1.1\r\nHos", b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\nGET /li"]
)
def test_connection_that_comes_to_no_request_is_closed(address, sent, monkeypatch):
    monkeypatch.setattr(wire, "HEAD_WITHIN_S", 0.3)
    with socket.create_connection(address, timeout=SOON) as client:
        client.sendall(sent)
        while client.recv(4096):
            pass


def test_request_that_takes_its_time_after_its_head_is_answered(address, monkeypatch):
    monkeypatch.setattr(wire, "HEAD_WITHIN_S", 0.3)
    body = picture()
    with socket.create_connection(address, timeout=SOON) as client, client.makefile("rb") as answer:
        length = f"Content-Type: image/png\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        client.sendall(START + length.encode() + body[:5])
        time.sleep(0.6)
        client.sendall(body[5:])
        assert answer.read().startswith(b"HTTP/1.1 200 ")
