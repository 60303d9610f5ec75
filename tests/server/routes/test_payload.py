"""The bytes of a body: their pace, and what was packed."""

import gzip
import socket
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.app import create_app
from server.errors import BodyTooLarge, MalformedBody
from server.middleware import uvicorn_server
from server.routes import payload
from server.settings import Settings
from tests.server.fakes import picture
from tests.server.listening import listening

SOON = 30
HEAD = b"POST /classify?labels=r HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nConnection: close\r\n"


@pytest.fixture
def address(encoder, monkeypatch):
    monkeypatch.setattr(payload, "PACE_WINDOW_S", 0.4)
    monkeypatch.setattr(uvicorn_server, "LINGER_SILENCE_S", 0.1)
    with listening(create_app(Settings(decode_threads=1, warm_up="none"), [encoder])) as (address, _):
        yield address


@pytest.mark.parametrize("framing", [b"Content-Length: 100000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_body_that_stays_all_but_whole_is_ended(address, framing):
    with socket.create_connection(address, timeout=SOON) as client, client.makefile("rb") as answer:
        client.sendall(HEAD + framing + b"1ffff\r\n" + b"x" * 80_000)
        started = time.monotonic()
        assert b" 408 " in answer.readline()
        assert time.monotonic() - started < payload.BODY_TIMEOUT_S / 3
        assert b"keep up 4096 bytes a second" in answer.read()


def test_slow_but_steady_body_is_read(address):
    body = picture() + bytes(30_000)
    with socket.create_connection(address, timeout=SOON) as client, client.makefile("rb") as answer:
        client.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 3000):
            client.sendall(body[at : at + 3000])
            time.sleep(0.1)
        assert b" 200 " in answer.readline()


@given(st.binary(max_size=2000), st.sampled_from(["gzip", "deflate", "raw"]), st.integers(0, 2000))
def test_packed_bytes_are_unpacked_within_the_limit(content, form, limit):
    packed = gzip.compress(content) if form == "gzip" else zlib.compress(content, wbits=-15 if form == "raw" else 15)
    try:
        inflated = payload.inflate(bytearray(packed), "gzip" if form == "gzip" else "deflate", limit=limit)
    except BodyTooLarge:
        assert len(content) > limit
    else:
        assert inflated == content
        assert len(content) <= limit


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=6), st.integers(1, 40), st.integers(1, 40))
def test_members_of_gzip_are_one_after_the_other(parts, packed_at_once, inflated_at_once):
    body = bytearray(b"".join(map(gzip.compress, parts)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(payload, "_PACKED_AT_ONCE", packed_at_once)
        patch.setattr(payload, "_INFLATED_AT_ONCE", inflated_at_once)
        assert payload.inflate(body, "gzip", limit=2000) == b"".join(parts)
        with pytest.raises(MalformedBody):
            payload.inflate(body[:-1], "gzip", limit=2000)


def test_many_empty_members_end_soon():
    empty = gzip.compress(b"")
    started = time.process_time()
    with pytest.raises(MalformedBody, match="goes on behind its end"):
        payload.inflate(bytearray(empty * (30_000_000 // len(empty))), "gzip", limit=100)
    assert time.process_time() - started < 2
