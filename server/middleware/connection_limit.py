"""Bound of open connections by the process's file descriptors, of which no network takes all.

Without descriptors left, nobody could connect, and every attempt to accept a connection would be an error in the log.
"""

import asyncio
import ipaddress
import os
import socket
from collections import Counter, deque
from collections.abc import Sequence
from typing import Any

from server.client_address import client_of, network_of
from server.errors import TooManyRequests
from server.middleware.http_protocol import ProblemProtocol, last_answer
from server.middleware.uvicorn_server import GracefulServer

# Files, downloads and models need descriptors too, and so do connections that are accepted only to be refused.
_MAX_KEPT = 4096
# Connections accepted in one turn of the event loop, each some tenths of a millisecond; those that wait in the kernel.
_MAX_ACCEPTED, _WAITING = 64, 2048
# Shares of the descriptors kept: of the connections accepted in one turn, which live for some turns even if they are
# closed at once, and of those that were refused and wait for their request.
_ACCEPTED_SHARE, _REFUSED_SHARE = 16, 4
_REFUSED_S = 0.5  # a refused connection stays for its request, since bytes that nobody reads would reset the answer
_TOO_MANY = "too many connections are open, of your network or in all"


class ConnectionLimit:
    """Connections by network, at most as many as the descriptors of `limit` allow; a network leaves as many free.

    Connections of `proxies`, which speak for many clients, count only in all.
    """

    def __init__(self, limit: int, *, proxies: Sequence[str] = ()) -> None:
        kept = min(_MAX_KEPT, limit // 2)
        self.most = limit - kept
        self.backlog = max(1, min(_MAX_ACCEPTED, kept // _ACCEPTED_SHARE))  # connections accepted at once
        self._refused: deque[asyncio.Transport] = deque(maxlen=max(1, kept // _REFUSED_SHARE))
        self._proxies = [ipaddress.ip_network(proxy) for proxy in proxies]
        self._open: Counter[str] = Counter()

    def network(self, address: str) -> str:
        """The network that an address counts for, "" for a proxy, or an unknown one."""
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return ""
        return "" if any(ip in proxy for proxy in self._proxies) else network_of(client_of(address))

    def admit(self, network: str) -> bool:
        """Count one more connection of `network`, if it may have one."""
        free = self.most - self._open.total()
        admitted = free > 0 if not network else self._open[network] < free
        self._open[network] += admitted
        return admitted

    def release(self, network: str) -> None:
        """Count one less."""
        self._open -= Counter({network: 1})

    def refuse(self, transport: asyncio.Transport) -> None:
        """Say 429, and close the connection that was refused longest ago where too many wait for their request."""
        transport.write(last_answer(TooManyRequests(_TOO_MANY, retry_after=1)))
        if len(self._refused) == self._refused.maxlen:
            self._refused[0].close()
        self._refused.append(transport)


class LimitedProtocol(ProblemProtocol):
    """The protocol of connections below a `ConnectionLimit`; others get 429 and are closed."""

    _network: str | None = None
    _closing: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, limit: ConnectionLimit, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._limit = limit

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = transport.get_extra_info("peername")
        network = self._limit.network(peer[0] if isinstance(peer, tuple) else "")
        if self._limit.admit(network):
            self._network = network
            super().connection_made(transport)
            return
        self.transport = transport
        self._limit.refuse(transport)
        self._closing = self.loop.call_later(_REFUSED_S, transport.close)

    def data_received(self, data: bytes) -> None:
        if self._closing is not None:
            self.transport.close()
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closing is not None:
            self._closing.cancel()
        if self._network is not None:
            self._limit.release(self._network)
            super().connection_lost(exc)


class LimitedServer(GracefulServer):
    """A server in whose kernel more connections wait than it accepts at once: asyncio has one number for both."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        for server in self.servers:
            for listener in server.sockets:
                with socket.socket(fileno=os.dup(listener.fileno())) as same:
                    same.listen(_WAITING)
