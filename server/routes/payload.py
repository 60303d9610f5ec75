"""The bytes of a request's body: received at a pace, held within the memory for bodies, and unpacked."""

import asyncio
import time
import zlib
from collections.abc import Mapping
from encodings import normalize_encoding
from encodings.aliases import aliases
from typing import Protocol

from fastapi import Request
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect

from server.contract.text import shown
from server.errors import BodyTimeout, BodyTooLarge, ClientGone, MalformedBody, UnsupportedBody
from server.middleware.http_protocol import LOWEST_BYTES_PER_S, PACE_WINDOW_S
from server.request_context import request_context
from server.routes.services import pipeline_of

BODY_TIMEOUT_S = 30.0
# A body of unknown length takes its share of memory in such steps.
_STEP = 2**20
_WINDOWS = {"gzip": 31, "x-gzip": 31, "deflate": 15}  # zlib's `wbits`
ENCODINGS = "gzip, deflate"
# By Python's names, of which it knows many spellings.
_CHARSETS = {"utf_8": "utf-8", "ascii": "utf-8", "latin_1": "latin-1"}
_MAX_CHARSET = 100
_INFLATED_AT_ONCE = 256 * 1024
# Gzip's members: tools that pack in parallel write one for every 64 KiB or more.
_MAX_MEMBERS = 1024
_PACKED_AT_ONCE = 64 * 1024


class Inflater(Protocol):
    """One of zlib's decompression objects."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


async def receive_body(request: Request) -> bytearray:
    """The body as it was sent; BodyTimeout or ClientGone if it does not arrive, MemoryExhausted if there is no room."""
    pipeline, context = pipeline_of(request), request_context(request.scope)
    length = int(request.headers.get("content-length", 0))
    context.hold(length)
    started, body = time.monotonic(), bytearray()
    try:
        async with asyncio.timeout(min(BODY_TIMEOUT_S, PACE_WINDOW_S)) as window:
            paced = 0  # bytes before this window
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    break
                if len(body) > context.held_bytes:
                    context.hold(len(body) + _STEP)
                if len(body) - paced >= LOWEST_BYTES_PER_S * PACE_WINDOW_S:
                    paced = len(body)
                    left = started + BODY_TIMEOUT_S - time.monotonic()
                    window.reschedule(asyncio.get_running_loop().time() + min(PACE_WINDOW_S, left))
    except TimeoutError:
        raise BodyTimeout(
            f"the body must arrive within {BODY_TIMEOUT_S:g} seconds, and keep up {LOWEST_BYTES_PER_S} bytes a second"
        ) from None
    except ClientDisconnect:
        pipeline.metrics.cancelled.labels("read").inc()
        raise ClientGone("the client closed the connection while it sent the body") from None
    except asyncio.CancelledError:
        pipeline.metrics.cancelled.labels("read").inc()
        raise
    context.hold(len(body))
    return body


def check_encoding(request: Request) -> str:
    """The body's content encoding, empty without one; UnsupportedBody for one that cannot be undone."""
    listed = ",".join(request.headers.getlist("content-encoding")).lower().split(",")
    codings = [coding for name in listed if (coding := name.strip()) not in ("", "identity")]
    if len(codings) > 1 or not _WINDOWS.keys() >= {*codings}:
        reason = "is not supported: send" if len(codings) == 1 else "is packed several times: send one of"
        error = UnsupportedBody(f"content encoding {shown(', '.join(codings))} {reason} {ENCODINGS} or none")
        error.headers = {"Accept-Encoding": ENCODINGS}
        raise error
    return codings[0] if codings else ""


def inflate(body: bytearray, encoding: str, *, limit: int) -> bytearray:
    """`body` without its content encoding; BodyTooLarge as soon as it passes `limit` bytes."""
    inflated = bytearray()
    # Some send what RFC 9110, 8.4.1.2 calls deflate, some leave out its two bytes of header and its checksum.
    raw = encoding == "deflate" and (len(body) < 2 or body[0] & 15 != 8 or (body[0] << 8 | body[1]) % 31)
    window = -15 if raw else _WINDOWS[encoding]
    inflater: Inflater = zlib.decompressobj(window)
    members, at, data, full = 1, 0, b"", False
    try:
        while data or at < len(body) or full:
            if not data and not full:
                data, at = bytes(body[at : at + _PACKED_AT_ONCE]), at + _PACKED_AT_ONCE
            if inflater.eof:  # RFC 1952, 2.2: gzip may have several members, the contents one after the other
                members += 1
                if members > (1 if encoding == "deflate" else _MAX_MEMBERS):
                    raise MalformedBody(f"the body is no {encoding}: it goes on behind its end")
                inflater = zlib.decompressobj(window)
            piece = inflater.decompress(data, _INFLATED_AT_ONCE)
            inflated += piece
            full = len(piece) == _INFLATED_AT_ONCE and not inflater.eof  # there may be more of what it has read
            data = inflater.unused_data if inflater.eof else inflater.unconsumed_tail
            if len(inflated) > limit:
                raise BodyTooLarge(f"the body, unpacked, has more than {limit} bytes, the limit (max_body_bytes)")
    except zlib.error:
        raise MalformedBody(f"the body is damaged: it is no {encoding}") from None
    if not inflater.eof:
        raise MalformedBody(f"the body is no {encoding}: it ends too early")
    return inflated


def content_type_of(request: Request) -> tuple[str, Mapping[bytes, bytes]]:
    """The media type of the body in lower case, and its parameters."""
    media_type, options = parse_options_header(request.headers.get("content-type", ""))
    return media_type.decode("latin-1").strip().lower(), options


def charset_of(options: Mapping[bytes, bytes]) -> str:
    """The codec of a media type's `charset`: UTF-8 or Latin-1; UnsupportedBody for all others."""
    return codec_of(options.get(b"charset", b"utf-8"))


def codec_of(charset: bytes) -> str:
    """The codec of a charset by one of its names, as `charset_of`."""
    given = charset[:_MAX_CHARSET].decode("latin-1").strip().lower()
    # Not by codecs.lookup, which imports modules, and keeps each name that it has been asked for.
    plain = normalize_encoding(given).replace(".", "_")
    codec = _CHARSETS.get(aliases.get(plain, plain))
    if codec is None:
        raise UnsupportedBody(f"charset {shown(given)} is not supported: send UTF-8")
    return codec
