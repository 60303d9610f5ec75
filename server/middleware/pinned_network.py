"""Connections for downloads: to one address that was checked, and of bounded bytes however they are cut."""

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from httpcore import AsyncNetworkBackend, AsyncNetworkStream, RemoteProtocolError

# Of an answer before its body, with all that comes before its status (1xx).
MAX_HEAD_BYTES = 32 * 1024
# Beside the body: the sizes of its chunks, and a trailer.
MAX_FRAMING_BYTES = 64 * 1024


@dataclass(frozen=True)
class PinnedNetwork(AsyncNetworkBackend):
    """Connects to the one `address`, a number, which is not resolved again; `meter` bounds what comes from there."""

    backend: AsyncNetworkBackend
    address: str
    meter: "Meter"

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> AsyncNetworkStream:
        return _MeteredStream(await self.backend.connect_tcp(self.address, port), self.meter)


@dataclass
class Meter:
    """Bytes that a connection may still receive."""

    left: int = MAX_HEAD_BYTES

    def allow_body(self, limit: int) -> None:
        """Allow a body of `limit` bytes, and as many for its framing as chunks of 512 bytes have."""
        self.left += limit + limit // 32 + MAX_FRAMING_BYTES


class _MeteredStream(AsyncNetworkStream):
    """A stream that ends with a fault of the other side once its meter has run out."""

    def __init__(self, stream: AsyncNetworkStream, meter: Meter) -> None:
        self._stream, self._meter = stream, meter

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self._meter.left <= 0:
            raise RemoteProtocolError("the answer has no end")
        data = await self._stream.read(min(max_bytes, self._meter.left), timeout)
        self._meter.left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._stream.write(buffer, timeout)

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> AsyncNetworkStream:
        return _MeteredStream(await self._stream.start_tls(ssl_context, server_hostname, timeout), self._meter)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
