"""An image by its URL: https only, from public addresses only, within bounds of bytes, time and redirects.

A host's name is resolved once and the connection made to that very address, so that a name cannot answer with a public
address when it is checked and with a private one when it is used. Each redirect passes all checks again.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit

import h11

from server.errors import ImageTooLarge, UrlFailed, UrlRefused
from server.inference.fair_queue import FairSemaphore
from server.middleware.ssrf import is_public
from server.request_context import RequestContext
from server.settings import Settings

PORT = 443
_REDIRECTS = (301, 302, 303, 307, 308)
# What object stores say of files that were uploaded without a type; the bytes decide anyway.
_UNTYPED = ("", "application/octet-stream", "binary/octet-stream")
_MAX_ADDRESSES = 3
_CHUNK = 64 * 1024
_HEADERS = [("User-Agent", "openset"), ("Accept", "image/*"), ("Accept-Encoding", "identity"), ("Connection", "close")]

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
# The addresses of a host.
Resolve = Callable[[str], Awaitable[Sequence[str]]]
# A TLS connection to an address, whose certificate must be the host's.
Connect = Callable[[str, ssl.SSLContext, str], Awaitable[Streams]]


@dataclass(frozen=True)
class FetchLimits:
    """Bounds of an image's fetch; `max_total_bytes` is a request's for all its images, `connections` everybody's."""

    max_bytes: int
    max_total_bytes: int
    timeout_s: float
    max_redirects: int
    connections: int

    @classmethod
    def of(cls, settings: Settings) -> "FetchLimits":
        return cls(
            max_bytes=settings.url_max_bytes,
            max_total_bytes=settings.max_body_bytes,
            timeout_s=settings.url_timeout_s,
            max_redirects=settings.url_max_redirects,
            connections=settings.url_connections,
        )


async def resolved(host: str) -> Sequence[str]:
    """The addresses that the system's resolver has for `host`, in its order."""
    found = await asyncio.get_running_loop().getaddrinfo(host, PORT, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


async def connected(address: str, context: ssl.SSLContext, host: str) -> Streams:
    """A TLS connection to `address`, which is a number and hence not resolved again."""
    return await asyncio.open_connection(address, PORT, ssl=context, server_hostname=host, limit=_CHUNK)


class Fetcher:
    """Fetches images; a `Fault` names the image it could not get, and tells nothing about addresses."""

    def __init__(
        self,
        limits: FetchLimits,
        *,
        resolve: Resolve = resolved,
        connect: Connect = connected,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self._limits, self._resolve, self._connect = limits, resolve, connect
        self._context = context or ssl.create_default_context()
        self._slots = FairSemaphore(limits.connections)

    async def fetch(self, urls: Sequence[str], names: Sequence[str], request: RequestContext) -> list[bytes]:
        """The bytes behind each of `urls`; `names` stand for the images in errors. Callers take turns."""
        left = _Budget(self._limits.max_total_bytes)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._timed(url, name, left, request))
                    for url, name in zip(urls, names, strict=True)
                ]
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    async def _timed(self, url: str, name: str, left: "_Budget", request: RequestContext) -> bytes:
        timeout_s = self._limits.timeout_s
        async with self._slots.slot(client=request.client, priority=request.priority):
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._follow(url, name, left)
            except TimeoutError:
                raise UrlFailed(f"{name} did not arrive from its URL within {timeout_s:g} seconds") from None

    async def _follow(self, url: str, name: str, left: "_Budget") -> bytes:
        for _ in range(self._limits.max_redirects + 1):
            target = _target(url, name)
            reader, writer = await self._open(target, name)
            try:
                answer = await _Exchange(reader, name, self._limits.max_bytes, left).get(writer, target)
            except (h11.ProtocolError, OSError):
                raise UrlFailed(f"{name}: the server of its URL broke off or does not speak HTTP/1.1") from None
            finally:
                writer.transport.abort()
            if isinstance(answer, bytes):
                return answer
            url = urljoin(url, answer)
        raise UrlFailed(f"{name}: its URL redirects more than {self._limits.max_redirects} times, the most followed")

    async def _open(self, target: "_Target", name: str) -> Streams:
        try:
            addresses = list(dict.fromkeys(await self._resolve(target.host)))
        except OSError:
            addresses = []
        if not addresses:
            raise UrlFailed(f"{name}: the host of its URL is not known")
        if not all(map(is_public, addresses)):
            raise UrlRefused(f"{name}: its URL does not lead to a public address")
        for address in addresses[:_MAX_ADDRESSES]:
            try:
                return await self._connect(address, self._context, target.host)
            except ssl.SSLError:
                raise UrlFailed(f"{name}: the host of its URL has no certificate that is trusted here") from None
            except OSError:
                continue
        raise UrlFailed(f"{name}: the host of its URL cannot be reached")


@dataclass(frozen=True)
class _Target:
    host: str
    path: str


def _target(url: str, name: str) -> _Target:
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode().rstrip("."), parts.port
    except ValueError:  # UnicodeError is one
        raise UrlRefused(f"{name}: its URL cannot be read") from None
    if parts.scheme != "https":
        raise UrlRefused(f"{name}: its URL is not https, the only scheme that is fetched")
    if not host or parts.username is not None or parts.password is not None:
        raise UrlRefused(f"{name}: its URL must name a host, and no user or password")
    if port not in (None, PORT):
        raise UrlRefused(f"{name}: its URL names a port, and only {PORT} is fetched from")
    query = f"?{parts.query}" if parts.query else ""
    return _Target(host, quote((parts.path or "/") + query, safe="/%:@!$&'()*+,;=-._~?[]"))


class _Budget:
    """Bytes left for all images of a request."""

    def __init__(self, most: int) -> None:
        self._most = self._left = most

    def take(self, count: int, name: str) -> None:
        self._left -= count
        if self._left < 0:
            raise ImageTooLarge(f"{name} and the others have more than {self._most} bytes together, the most accepted")


class _Exchange:
    """One request and its answer."""

    def __init__(self, reader: asyncio.StreamReader, name: str, max_bytes: int, left: _Budget) -> None:
        self._reader, self._name, self._max_bytes, self._left = reader, name, max_bytes, left
        self._http = h11.Connection(h11.CLIENT)

    async def get(self, writer: asyncio.StreamWriter, target: _Target) -> bytes | str:
        """The body, or where to look instead."""
        host = f"[{target.host}]" if ":" in target.host else target.host
        request = h11.Request(method="GET", target=target.path, headers=[("Host", host), *_HEADERS])
        for event in (request, h11.EndOfMessage()):
            writer.write(self._http.send(event) or b"")
        await writer.drain()
        while not isinstance(head := await self._next(), h11.Response):
            pass  # 1xx
        headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in head.headers}
        if head.status_code in _REDIRECTS and "location" in headers:
            return headers["location"]
        self._check(head.status_code, headers)
        return await self._body()

    def _check(self, status: int, headers: dict[str, str]) -> None:
        if status != 200:
            raise UrlFailed(f"{self._name}: its URL answers with status {status}")
        content_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if not content_type.startswith("image/") and content_type not in _UNTYPED:
            raise UrlFailed(f"{self._name}: what its URL leads to is not called an image")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise UrlFailed(f"{self._name}: its URL answers compressed, which was not asked for")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._max_bytes:
            raise self._too_large()

    async def _body(self) -> bytes:
        body = bytearray()
        while isinstance(event := await self._next(), h11.Data):
            body += event.data
            self._left.take(len(event.data), self._name)
            if len(body) > self._max_bytes:
                raise self._too_large()
        return bytes(body)

    async def _next(self) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_CHUNK))
        return event

    def _too_large(self) -> ImageTooLarge:
        return ImageTooLarge(f"{self._name} has more than {self._max_bytes} bytes, the most fetched from a URL")
