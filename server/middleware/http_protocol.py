"""HTTP/1.1 on a connection: uvicorn's protocol over llhttp, with bounds for what a client sends and does not read.

Some of the methods are private to uvicorn: its minor release is pinned.
"""

import asyncio
import fcntl
import json
import logging
import select
import socket
import struct
import termios
from contextlib import suppress
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.errors import PROBLEM, Fault, MalformedRequest, problem

log = logging.getLogger(__name__)

# Until its head has arrived a request has no bound in the app, and its connection holds a file descriptor.
HEAD_TIMEOUT_S = 30.0
MAX_HEAD_BYTES, MAX_HEADERS = 64 * 1024, 200
_MAX_LENGTH_DIGITS = 20  # as 64 bits have; zeros may come before, and Python converts no more than some thousands
# Bodies and answers must keep up this pace in each window, or their memory and their place would be held for long.
LOWEST_BYTES_PER_S, PACE_WINDOW_S = 4 * 1024, 5.0
# The time of a body in chunks goes by their number; so many may be small.
FREE_CHUNKS, LEAST_MEAN_CHUNK = 4096, 64
# Bytes parsed at once: a few pipelined requests, of which all but the first wait, or so much of a body.
_HEAD_SLICE, _BODY_SLICE = 1024, 32 * 1024
_FRAMING = (b"content-length", b"transfer-encoding")
# After a client has shut its side: first look, and later ones, whether it has gone altogether.
_GONE_AFTER_S = (0.05, 0.5)
# Key of the state of a request's scope: its body broke off into something that is no HTTP.
MALFORMED = "malformed"


class _Refused(Exception):
    """A request that llhttp reads but this server does not."""


class ProblemProtocol(HttpToolsProtocol):
    """HTTP/1.1 that answers a malformed request with a problem document, and bounds time and memory of a connection."""

    _deadline: asyncio.TimerHandle | None = None
    _pace: asyncio.TimerHandle | None = None
    _watch: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._unparsed = b""
        self._in_head, self._in_body, self._head_bytes = True, False, 0
        self._chunks = self._body_bytes = 0
        self._framing: list[bytes] = []  # lines of the head that say where its body ends
        self._resumes = False  # a body is read behind a head of our own
        # Nothing more is read: after something that is no HTTP, or since the client has shut its side.
        self._refused = self._half_closed = False

    def _unsupported_upgrade_warning(self) -> None:
        """Pass over an `Upgrade` silently, as RFC 9110, 7.8, allows: many a client offers h2c with each request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # What the kernel does not take at once counts as not sent, however little it is.
        transport.set_write_buffer_limits(high=0)
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._refused:
            return
        self._unparsed = self._unparsed + data if self._unparsed else data
        self._parse()
        if self._answered:
            self._start_deadline()
        else:
            self._deadline = _cancel(self._deadline)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection of a client that has sent a whole request and shut its side, until it is answered."""
        if self._refused or self._answered or self.cycle.more_body:
            return False
        if not self._half_closed:
            self._half_closed = True
            if not self.pipeline and not self.cycle.response_started and self.scope["http_version"] == "1.1":
                # A client that has gone looks the same; an answer that may come at any time makes it reset.
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._watch = self.loop.call_later(_GONE_AFTER_S[0], self._end_if_gone)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline, self._pace, self._watch = map(_cancel, (self._deadline, self._pace, self._watch))
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._check_pace(before=None)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._pace = _cancel(self._pace)

    def on_message_begin(self) -> None:
        if not self._resumes:
            super().on_message_begin()
            self._in_head, self._head_bytes = True, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; those behind a body, which could pass for others, are dropped."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if self._resumes:
            return
        if fault := _head_fault(self.headers, self.parser.get_http_version()):
            raise _Refused(fault)
        super().on_headers_complete()
        self._in_head, self._in_body, self._chunks, self._body_bytes = False, True, 0, 0
        self._framing = [b"%s: %s\r\n" % header for header in self.headers if header[0] in _FRAMING]

    def on_chunk_header(self) -> None:
        """Count a chunk; each costs as much as hundreds of bytes."""
        self._chunks += 1
        if self._chunks > FREE_CHUNKS and self._body_bytes < LEAST_MEAN_CHUNK * self._chunks:
            raise _Refused("its chunks are too small")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        super().on_body(body)

    def on_url(self, url: bytes) -> None:
        if not self._resumes:
            super().on_url(url)

    def on_message_complete(self) -> None:
        if self._framing and self.parser.should_upgrade():
            return  # llhttp takes the body for the other protocol's
        self._in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self._refused and self._answered:
            self.send_400_response("")
            return
        self._parse()
        if self._half_closed and self._answered:
            self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answer what is no request, and close the connection."""
        error = MalformedRequest("this is not an HTTP/1.1 request: its first line, a header or a chunk is malformed")
        self.transport.write(last_answer(error))
        self.transport.close()

    @property
    def _answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _should_upgrade(self) -> bool:
        return False  # to nothing: the request is answered as it is

    def _parse(self) -> None:
        """Parse what has arrived, up to a request that has to wait for the answer to another."""
        data, at = memoryview(self._unparsed), 0
        while at < len(data) and not self.pipeline and not self._refused:
            piece = data[at : at + (_BODY_SLICE if self._in_body else _HEAD_SLICE)]
            at += len(piece)
            self._head_bytes += len(piece)
            try:
                self.parser.feed_data(piece)
            except httptools.HttpParserUpgrade as upgrade:
                at += upgrade.args[0] - len(piece)
                self._read_on()
            except httptools.HttpParserError:
                self._refuse()
            if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
                self._refuse()
        self._unparsed = b"" if self._refused else bytes(data[at:])
        if self._unparsed:
            self.flow.pause_reading()

    def _read_on(self) -> None:
        """Read what follows a request for another protocol, first its body, as if it had not asked for one."""
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        if self._framing:
            self._resumes = True
            self.parser.feed_data(b"".join([b"POST / HTTP/1.1\r\n", *self._framing, b"\r\n"]))
            self._resumes = False

    def _refuse(self) -> None:
        """Read no more of this connection, and answer 400 in its turn."""
        self._refused, self._unparsed = True, b""
        if self._answered:
            log.info("a connection was closed: what it sent is no HTTP/1.1 request")
            self.send_400_response("")
        elif not self._in_head and self.cycle.more_body:
            self.cycle.scope["state"][MALFORMED] = True  # its `receive` raises
            self.cycle.keep_alive = False
            self.cycle.message_event.set()
        # else: the answers before it come first, see `on_response_complete`

    def _check_pace(self, before: int | None) -> None:
        """Abort the connection where the client has not read its share of the answer since `before`, bytes not sent."""
        pending = self.transport.get_write_buffer_size() + self._queued_in_kernel()
        if before is not None and before - pending < LOWEST_BYTES_PER_S * PACE_WINDOW_S:
            log.info("a connection was closed: its client does not read the answer")
            # By a reset: the kernel, too, would go on holding the answer for its client.
            reset = struct.pack("ii", 1, 0)
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            self.transport.abort()
            return
        self._pace = self.loop.call_later(PACE_WINDOW_S, self._check_pace, pending)

    def _queued_in_kernel(self) -> int:
        count = bytearray(4)
        with suppress(OSError):
            fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, count)
        return int(struct.unpack("i", count)[0])

    def _end_if_gone(self) -> None:
        poll = select.poll()
        poll.register(self.transport.get_extra_info("socket").fileno(), 0)  # errors are always told
        if poll.poll(0):
            self.transport.abort()
        else:
            self._watch = self.loop.call_later(_GONE_AFTER_S[1], self._end_if_gone)

    def _start_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)


def last_answer(error: Fault) -> bytes:
    """A problem as the bytes of an HTTP/1.1 response, after which the connection is closed."""
    document = problem(error)
    content = json.dumps(document).encode()
    lines = [
        f"HTTP/1.1 {document['status']} {HTTPStatus(document['status']).phrase}",
        f"content-type: {PROBLEM}",
        f"content-length: {len(content)}",
        *(f"{name.lower()}: {value}" for name, value in (error.headers or {}).items()),
        "connection: close",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + content


def _head_fault(headers: list[tuple[bytes, bytes]], version: str) -> str:
    """The fault in the head of a request that llhttp accepts, empty if there is none (RFC 9112, 3.2 and 6.1)."""
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    hosts = sum(name == b"host" for name, _ in headers)
    if version not in ("1.0", "1.1"):
        return "its version is unknown"
    if len(headers) > MAX_HEADERS:
        return "it has too many headers"
    if hosts > 1 or (hosts == 0 and version == "1.1"):
        return "it must have one Host"
    if any(name == b"content-length" and len(value) > _MAX_LENGTH_DIGITS for name, value in headers):
        return "its Content-Length has too many digits"
    if codings and (codings != [b"chunked"] or version == "1.0"):
        return "its Transfer-Encoding is not just chunked"
    return ""


def _cancel(timer: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    if timer is not None:
        timer.cancel()
    return None
