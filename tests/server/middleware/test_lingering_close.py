"""A refusal reaches a client that is still sending, over real connections."""

import http.client
import socket
import time

import pytest

from server.app import create_app
from server.middleware import lingering_close as lingering
from server.settings import Settings
from tests.server.listening import listening

MANY_BYTES = 8 * 2**20  # more than the socket buffers of both sides hold


@pytest.fixture
def address(detector, encoder):
    settings = Settings(decode_threads=1, warm_up="none", max_body_bytes=2**20)
    with listening(create_app(settings, [detector, encoder])) as (address, _):
        yield address


@pytest.mark.parametrize("connection", ["close", "keep-alive"])
@pytest.mark.parametrize(
    ("headers", "status"), [({}, 413), ({"X-Priority": "urgent"}, 422), ({"Transfer-Encoding": "chunked"}, 413)]
)
def test_client_that_sends_a_body_the_server_does_not_read_gets_its_answer(address, headers, status, connection):
    chunked = "Transfer-Encoding" in headers
    for _ in range(5):  # whether a reset overtakes the answer is a matter of luck
        client = http.client.HTTPConnection(*address, timeout=30)
        body = iter([b"x" * 2**16] * (MANY_BYTES // 2**16)) if chunked else b"x" * MANY_BYTES
        all_headers = {"Content-Type": "image/png", "Connection": connection} | headers
        client.request("POST", "/detect?labels=dog", body, all_headers, encode_chunked=chunked)
        answer = client.getresponse()
        assert answer.status == status
        assert answer.read().startswith(b'{"type":"urn:openset:problem:')
        client.close()


def test_answer_comes_before_the_rest_of_the_body_and_waits_no_longer_than_it_may(address, monkeypatch):
    monkeypatch.setattr(lingering, "SILENCE_S", 0.2)
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\nConnection: close\r\n\r\n")
        received = b""
        while b"body-too-large" not in received:  # though nothing of the body was sent
            received += client.recv(4096)
        while client.recv(4096):
            pass


def test_body_without_end_is_not_read_for_ever(address, monkeypatch):
    monkeypatch.setattr(lingering, "LONGEST_S", 0.3)
    give_up = time.monotonic() + 60
    with socket.create_connection(address, timeout=30) as client:
        client.sendall(b"POST /detect HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999\r\nConnection: close\r\n\r\n")
        with pytest.raises(OSError, match=r"reset|[Bb]roken pipe"):  # noqa: PT012
            while time.monotonic() < give_up:
                client.sendall(b"x" * 1000)
