"""HTTP/1.1 on a connection: what could be read in two ways is refused, and nothing is waited for without end."""

import contextlib
import json
import re
import select
import socket
import time

import pytest

from server.app import create_app
from server.middleware import http_protocol, uvicorn_server
from server.settings import Settings
from tests.server.fakes import FakeEncoder, picture
from tests.server.listening import listening
from tests.server.test_app import Held

SOON = 30
POST = b"POST /classify?labels=r HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
NEXT = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
PNG = picture()
WHOLE = POST + b"Content-Length: %d\r\n\r\n" % len(PNG) + PNG
SMUGGLED = {
    "both lengths": POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "both lengths, turned": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    "list of lengths": POST + b"Content-Length: 1, 1\r\n\r\nx",
    "signed length": POST + b"Content-Length: +1\r\n\r\nx",
    "length with a space inside": POST + b"Content-Length: 1 1\r\n\r\nx",
    "length of more digits than Python reads": POST + b"Content-Length: " + b"0" * 5000 + b"1\r\n\r\nx",
    "space before the colon": POST + b"Content-Length : 1\r\n\r\nx",
    "space before a name": POST + b" Content-Length: 1\r\n\r\nx",
    "folded header": POST + b"X: a\r\n b\r\n\r\n",
    "folded coding": POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "bare LF": POST + b"X: a\n\r\n",
    "bare LF at the end": POST + b"X: a\r\n\n",
    "bare CR": POST + b"X: a\rY: b\r\n\r\n",
    "NUL": POST + b"X: a\0\r\n\r\n",
    "coding before chunked": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "coding behind chunked": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "coding of another name": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "coding twice": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": CHUNKED.replace(b"1.1", b"1.0") + b"0\r\n\r\n",
    "chunk of no number": CHUNKED + b"zz\r\n",
    "chunk of a negative number": CHUNKED + b"-1\r\n",
    "chunk of a hexadecimal prefix": CHUNKED + b"0x1\r\nx\r\n0\r\n\r\n",
    "chunk that is too long for a number": CHUNKED + b"f" * 17 + b"\r\n",
    "chunk shorter than told": CHUNKED + b"3\r\nab\r\n0\r\n\r\n",
    "chunk longer than told": CHUNKED + b"3\r\nabcd\r\n0\r\n\r\n",
    "chunk that ends in LF": CHUNKED + b"3\nabc\r\n0\r\n\r\n",
    "chunk with LF in its extension": CHUNKED + b"3;a\nb\r\nabc\r\n0\r\n\r\n",
    "two hosts": b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "no host": b"GET /livez HTTP/1.1\r\n\r\n",
    "version 2.0": b"GET /livez HTTP/2.0\r\nHost: a\r\n\r\n",
    "no version": b"GET /livez\r\n\r\n",
    "space in the path": b"GET /livez x HTTP/1.1\r\nHost: a\r\n\r\n",
    "method of the client's": b"SECRET /livez HTTP/1.1\r\nHost: a\r\n\r\n",
    "very many headers": b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"a: b\r\n" * 201 + b"\r\n",
    "very long header": b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return FakeEncoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def address(encoder):
    with listening(create_app(Settings(decode_threads=1, warm_up="none"), [encoder])) as (address, _):
        yield address


@pytest.fixture(autouse=True)
def close_soon(monkeypatch):
    """Clients here stay until the server closes."""
    monkeypatch.setattr(uvicorn_server, "LINGER_SILENCE_S", 0.2)


def connected(address):
    return contextlib.closing(socket.create_connection(address, timeout=SOON))


def rest(client):
    """What the server sends until it closes."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := client.recv(65536):
            received += data
    return received


def statuses(answers):
    return re.findall(r"HTTP/1\.1 (\d+)", answers.decode("latin-1"))


@pytest.mark.parametrize("data", SMUGGLED.values(), ids=SMUGGLED)
def test_request_that_could_be_read_in_two_ways_is_refused_and_ends_its_connection(address, data):
    with connected(address) as client:
        client.sendall(data + NEXT)
        answers = rest(client)
    assert statuses(answers) == ["400"]
    assert b"urn:openset:problem:malformed-request" in answers
    assert b"connection: close" in answers.lower()


@pytest.mark.parametrize("data", [SMUGGLED["both lengths"], SMUGGLED["chunk of no number"], b"\0\r\n"])
def test_requests_before_a_malformed_one_are_answered_first(address, data):
    with connected(address) as client:
        client.sendall(WHOLE + NEXT + data + NEXT)
        assert statuses(rest(client)) == ["200", "200", "400"]


def test_connection_whose_body_is_malformed_ends_with_its_answer(address, monkeypatch):
    monkeypatch.setattr(uvicorn_server, "LINGER_SILENCE_S", 10 * SOON)
    refused_unread = CHUNKED.replace(b"image/png", b"text/plain")
    with connected(address) as client:
        client.sendall(refused_unread + b"zz\r\n")
        assert statuses(rest(client)) == ["415"]


def test_malformed_chunk_of_a_form_is_one_line_in_the_log(address, caplog):
    with caplog.at_level("INFO"), connected(address) as client:
        client.sendall(
            CHUNKED.replace(b"image/png", b"multipart/form-data; boundary=b").replace(b"?labels=r", b"")
            + b"3\r\n--b\r\nzz\r\n"
        )
        assert statuses(rest(client)) == ["400"]
    lines = [record for record in caplog.records if record.name != "uvicorn.access"]
    assert [(line.name, line.exc_info) for line in lines] == [("server.access", None)]


def test_any_number_of_pipelined_requests_is_answered_in_their_order(address):
    with connected(address) as client:
        client.sendall((WHOLE + NEXT) * 100 + NEXT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answers = rest(client)
    assert statuses(answers) == ["200"] * 201
    assert answers.count(b'"scores"') == 100


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50])
def test_request_in_segments_of_any_size_is_read_as_a_whole(address, size):
    data = CHUNKED + b"%x;name=value\r\n" % len(PNG) + PNG + b"\r\n0\r\nX-Request-ID: trailer\r\n\r\n"
    data += NEXT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with connected(address) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(data), size):
            client.sendall(data[at : at + size])
        answers = rest(client)
    assert statuses(answers) == ["200", "200"]
    assert b"x-request-id: trailer" not in answers, "what follows a body is no header"


@pytest.mark.parametrize("upgrade", [b"h2c", b"websocket", b"TLS/1.0"])
@pytest.mark.parametrize("split", [False, True])
def test_upgrade_that_is_not_made_changes_nothing(address, upgrade, split, caplog):
    head = POST + b"Connection: Upgrade\r\nUpgrade: " + upgrade + b"\r\nContent-Length: %d\r\n\r\n" % len(PNG)
    with connected(address) as client:
        client.sendall(head + (b"" if split else PNG))
        if split:
            time.sleep(0.05)
            client.sendall(PNG)
        client.sendall(NEXT)
        answers = b""
        while statuses(answers) != ["200", "200"]:
            data = client.recv(65536)
            assert data, answers
            answers += data
    assert "pgrade" not in caplog.text


def test_body_in_very_small_chunks_is_refused(address, monkeypatch):
    monkeypatch.setattr(http_protocol, "FREE_CHUNKS", 20)
    with connected(address) as client:
        client.sendall(CHUNKED + b"1\r\nx\r\n" * 30)
        answers = rest(client)
    assert statuses(answers) == ["400"]
    assert b"its chunks are very small" in answers
    chunks = b"".join(b"%x\r\n" % len(PNG[at : at + 64]) + PNG[at : at + 64] + b"\r\n" for at in range(0, len(PNG), 64))
    with connected(address) as client:
        client.sendall(CHUNKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + chunks + b"0\r\n\r\n")
        assert statuses(rest(client)) == ["200"]


@pytest.mark.parametrize("requests", [1, 3])
def test_client_that_has_shut_its_side_is_answered(address, requests):
    with connected(address) as client:
        client.sendall(WHOLE * requests)
        client.shutdown(socket.SHUT_WR)
        answers = rest(client)
    assert [status for status in statuses(answers) if status != "100"] == ["200"] * requests


def test_client_that_has_gone_is_told_from_one_that_has_shut_its_side(tmp_path):
    encoder = FakeEncoder(tmp_path)
    held = Held(encoder)
    with listening(create_app(Settings(decode_threads=1, warm_up="none"), [encoder])) as (address, _):
        gone, shut = (socket.create_connection(address, timeout=SOON) for _ in range(2))
        for client in (gone, shut):
            client.sendall(WHOLE)
            assert held.started.wait(SOON)
        gone.close()
        shut.shutdown(socket.SHUT_WR)
        give_up = time.monotonic() + SOON
        while cancelled(address) == 0:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        held.gate.set()
        assert statuses(rest(shut))[-1] == "200"
        assert cancelled(address) == 1
        shut.close()


def cancelled(address):
    with connected(address) as client:
        client.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        lines = rest(client).decode().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("openset_cancelled_total{"))


LARGE = b"x" * (8 * 2**20)  # more than the socket buffers of both sides hold


async def large_answer(scope, receive, send):
    """An app whose answers are large."""
    if scope["type"] != "http":
        return
    lingering = uvicorn_server.LingeringClose({"state": {}}, receive, send)
    headers = [(b"content-length", b"%d" % len(LARGE))]
    await lingering.send({"type": "http.response.start", "status": 200, "headers": headers})
    await lingering.send({"type": "http.response.body", "body": LARGE})
    await lingering.finish()
    ended.append(scope["path"])


ended = []
setattr(large_answer, "state", type("State", (), {"stopping": False})())  # noqa: B010


@pytest.mark.parametrize("reads", [0, 100])
def test_client_that_does_not_read_its_answer_is_cut_off(monkeypatch, reads):
    monkeypatch.setattr(http_protocol, "PACE_WINDOW_S", 0.2)
    with listening(large_answer) as (address, _), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(SOON)
        client.connect(address)
        client.sendall(NEXT)
        give_up = time.monotonic() + SOON
        poll = select.poll()
        poll.register(client, 0)  # tells a reset
        while not poll.poll(50):
            assert time.monotonic() < give_up
            if reads:
                client.recv(reads)


def test_client_that_reads_slowly_but_steadily_gets_all(monkeypatch):
    monkeypatch.setattr(http_protocol, "PACE_WINDOW_S", 0.3)
    with listening(large_answer) as (address, _), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(SOON)
        client.connect(address)
        client.sendall(NEXT)
        received, reads = 0, 0
        while received < len(LARGE):
            data = client.recv(65536)
            assert data, f"closed after {received} bytes"
            received += len(data)
            reads += 1
            if reads < 20:
                time.sleep(0.1)


def test_answer_counts_as_sent_only_when_the_client_takes_it(monkeypatch):
    ended.clear()
    with listening(large_answer) as (address, _), socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(address)
        client.sendall(NEXT)
        time.sleep(0.3)
        assert ended == [], "its memory is still held"


def test_refused_connection_is_told_in_the_problems_own_form(address):
    with connected(address) as client:
        client.sendall(b"hello\r\n\r\n")
        head, _, body = rest(client).partition(b"\r\n\r\n")
    assert json.loads(body)["status"] == 400
    assert b"content-type: application/problem+json" in head
