"""uvicorn's protocol and server over real sockets: no client loses an answer to a connection that closes."""

import http.client
import json
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from server.app import create_app
from server.middleware import http_protocol, uvicorn_server
from server.settings import Settings
from tests.server.fakes import FakeEncoder, picture
from tests.server.listening import listening
from tests.server.test_app import Held

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
    """The bytes that the server sends until it closes; after `data` nothing more is sent."""
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
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.3)
    with socket.create_connection(address, timeout=SOON) as client:
        client.sendall(sent)
        while client.recv(4096):
            pass


def test_request_that_takes_its_time_after_its_head_is_answered(address, monkeypatch):
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT_S", 0.3)
    body = picture()
    with socket.create_connection(address, timeout=SOON) as client, client.makefile("rb") as answer:
        length = f"Content-Type: image/png\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        client.sendall(START + length.encode() + body[:5])
        time.sleep(0.6)
        client.sendall(body[5:])
        assert answer.read().startswith(b"HTTP/1.1 200 ")


MANY_BYTES = 8 * 2**20  # more than the socket buffers of both sides hold


@pytest.fixture
def small_bodies(detector, encoder):
    settings = Settings(decode_threads=1, warm_up="none", max_body_bytes=2**20)
    with listening(create_app(settings, [detector, encoder])) as (address, _):
        yield address


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
@pytest.mark.parametrize(
    ("headers", "status"), [({}, 413), ({"X-Priority": "urgent"}, 422), ({"Transfer-Encoding": "chunked"}, 413)]
)
def test_client_that_sends_a_body_the_server_does_not_read_gets_its_answer(small_bodies, headers, status, connection):
    chunked = "Transfer-Encoding" in headers
    for _ in range(5):  # whether a reset overtakes the answer is a matter of luck
        client = http.client.HTTPConnection(*small_bodies, timeout=30)
        body = iter([b"x" * 2**16] * (MANY_BYTES // 2**16)) if chunked else b"x" * MANY_BYTES
        all_headers = {"Content-Type": "image/png", "Connection": connection} | headers
        client.request("POST", "/detect?labels=dog", body, all_headers, encode_chunked=chunked)
        answer = client.getresponse()
        assert answer.status == status
        assert answer.read().startswith(b'{"type":"urn:openset:problem:')
        client.close()


def test_answer_comes_before_the_rest_of_the_body_and_waits_no_longer_than_it_may(small_bodies, monkeypatch):
    monkeypatch.setattr(uvicorn_server, "LINGER_SILENCE_S", 0.2)
    with socket.create_connection(small_bodies, timeout=30) as client:
        client.sendall(b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\nConnection: close\r\n\r\n")
        received = b""
        while b"body-too-large" not in received:  # though nothing of the body was sent
            received += client.recv(4096)
        while client.recv(4096):
            pass


def test_body_without_end_is_not_read_for_ever(small_bodies, monkeypatch):
    monkeypatch.setattr(uvicorn_server, "LINGER_S", 0.3)
    give_up = time.monotonic() + 60
    with socket.create_connection(small_bodies, timeout=30) as client:
        client.sendall(b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\nConnection: close\r\n\r\n")
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):  # noqa: PT012
            while time.monotonic() < give_up:
                client.sendall(b"x" * 1000)


HEAD = b"POST /classify?labels=r HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"


@pytest.fixture
def app(detector, encoder):
    return create_app(Settings(decode_threads=1, warm_up="none"), [detector, encoder])


@pytest.fixture
def stop(app, monkeypatch):
    """A server at `address` that stops at `now()`; its clients then have as long as they need."""
    monkeypatch.setattr(uvicorn_server, "GRACE_S", SOON)
    with listening(app) as (address, server):

        def tell():
            server.should_exit = True
            give_up = time.monotonic() + SOON
            while not app.state.stopping:
                assert time.monotonic() < give_up
                time.sleep(0.01)

        yield SimpleNamespace(address=address, now=tell)


def answer_to(client, request):
    client.sendall(request)
    with client.makefile("rb") as file:
        return file.read()  # until the server closes


def test_clients_that_are_connected_and_have_not_asked_yet_are_answered(stop):
    request = HEAD % len(picture()) + picture()
    fresh = [socket.create_connection(stop.address, timeout=SOON) for _ in range(40)]
    stop.now()
    for client in fresh:
        answer = answer_to(client, request)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer.lower()
        client.close()


def test_kept_connection_is_answered_once_more_and_told_that_it_closes(stop):
    client = http.client.HTTPConnection(*stop.address, timeout=SOON)
    client.request("GET", "/livez")
    kept = client.getresponse()
    assert (kept.status, kept.getheader("Connection"), kept.read()) == (200, None, b'{"status":"ok"}')
    stop.now()
    client.request("GET", "/livez")
    last = client.getresponse()
    assert (last.status, last.getheader("Connection"), last.read()) == (200, "close", b'{"status":"ok"}')
    client.close()


def test_upload_under_way_is_finished_and_answered(stop):
    client = socket.create_connection(stop.address, timeout=SOON)
    client.sendall(HEAD % len(picture()) + picture()[:10])
    stop.now()
    assert answer_to(client, picture()[10:]).startswith(b"HTTP/1.1 200")
    client.close()


def test_nobody_new_is_let_in(stop):
    kept = socket.create_connection(stop.address, timeout=SOON)  # without any connection it would end at once
    stop.now()
    give_up = time.monotonic() + SOON
    with pytest.raises(ConnectionRefusedError):  # noqa: PT012
        while time.monotonic() < give_up:
            socket.create_connection(stop.address, timeout=SOON).close()
    kept.close()


def test_connections_that_stay_silent_do_not_hold_the_server(app, monkeypatch):
    monkeypatch.setattr(uvicorn_server, "GRACE_S", 0.1)
    with listening(app) as (address, server):
        silent = http.client.HTTPConnection(*address, timeout=SOON)
        silent.request("GET", "/livez")
        silent.getresponse().read()
        server.should_exit = True
        assert silent.sock.recv(1) == b""
        silent.close()


def test_request_that_is_not_done_within_the_bound_is_told_so(app, encoder, monkeypatch):
    monkeypatch.setattr(uvicorn_server, "GRACE_S", 0.0)
    held = Held(encoder)
    with listening(app, shutdown_timeout_s=0) as (address, server):
        client = http.client.HTTPConnection(*address, timeout=SOON)
        client.request("POST", "/classify?labels=r", picture(), {"Content-Type": "image/png"})
        assert held.started.wait(SOON)
        server.should_exit = True
        answer = client.getresponse()
        assert (answer.status, answer.getheader("Content-Type")) == (503, "application/problem+json")
        problem = json.loads(answer.read())
        assert problem["type"] == "urn:openset:problem:not-ready"
        assert "is stopping" in problem["detail"]
        held.gate.set()
        client.close()


def test_storm_of_connections_is_answered_or_refused_and_never_cut(app, monkeypatch):
    monkeypatch.setattr(uvicorn_server, "GRACE_S", SOON)
    outcomes = []

    def storm(address):
        while "refused" not in outcomes:
            try:
                client = socket.create_connection(address, timeout=SOON)
            except ConnectionRefusedError:
                outcomes.append("refused")
                return
            with client:
                answer = answer_to(client, b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            outcomes.append(answer[:12].decode())

    with listening(app) as (address, server):
        clients = [threading.Thread(target=storm, args=(address,)) for _ in range(4)]
        for client in clients:
            client.start()
        while len(outcomes) < 50:
            time.sleep(0.01)
        server.should_exit = True
        for client in clients:
            client.join()
    assert set(outcomes) == {"HTTP/1.1 200", "refused"}


@pytest.mark.parametrize("offer", ["h2c", "h2c, websocket", "websocket", "TLS/1.0"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_offer_to_upgrade_is_passed_over_in_silence(address, caplog, offer, method):
    headers = {"Upgrade": offer, "HTTP2-Settings": "AAMAAABk", "Connection": "Upgrade, HTTP2-Settings"}
    client = http.client.HTTPConnection(*address, timeout=SOON)
    for _ in range(2):  # the connection is kept
        if method == "GET":
            client.request("GET", "/livez", headers=headers)
        else:
            client.request("POST", "/classify?labels=r", picture(), headers | {"Content-Type": "image/png"})
        answer = client.getresponse()
        assert (answer.status, answer.read()[:1]) == (200, b"{")
    client.close()
    # The end of another test's server may be logged meanwhile.
    lines = [line.getMessage() for line in caplog.records if line.name.startswith("uvicorn")]
    assert [line for line in lines if "pgrade" in line or "websocket" in line] == []
