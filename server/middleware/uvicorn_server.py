"""uvicorn's HTTP/1.1 protocol and server, changed so that no client loses an answer to a connection that closes.

Some of the methods are private to uvicorn: its minor release is pinned.
"""

import asyncio
import contextlib
import json
import select
import socket
import time
from collections.abc import Callable, Iterator

import h11
import uvicorn
from starlette.types import Message, Receive, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.errors import PROBLEM, MalformedRequest, problem

# Until its head has arrived a request has no bound in the app, and its connection holds a file descriptor.
HEAD_TIMEOUT_S = 30.0
# At shutdown: requests that clients sent before they could notice it arrive within this time.
GRACE_S = 1.0
# A connection that was accepted belongs to the server only one turn of the event loop later, and is dropped if the
# listener closes before: so many turns without a new connection must pass.
QUIET_TURNS = 3
# The rest of a body is read as long as bytes keep coming, and that long in all.
LINGER_SILENCE_S, LINGER_S = 5.0, 30.0


class ProblemProtocol(H11Protocol):
    """HTTP/1.1 that answers a malformed request with a problem document, and bounds the time for a request's head."""

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._start_deadline()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._start_deadline()
        else:
            self._cancel_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_deadline()
        super().connection_lost(exc)

    def _unsupported_upgrade_warning(self) -> None:
        """Pass over an `Upgrade` silently, as RFC 9110, 7.8, allows: many a client offers h2c with each request."""

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request and close the connection; `msg` is uvicorn's, which has logged it."""
        error = MalformedRequest("this is not an HTTP/1.1 request: its first line, a header or a chunk is malformed")
        document = json.dumps(problem(error)).encode()
        headers = [("Content-Type", PROBLEM), ("Content-Length", str(len(document))), ("Connection", "close")]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=document), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _start_deadline(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class GracefulServer(uvicorn.Server):
    """Server that, told to stop, calls `on_stop`, accepts what is on its way, and only then closes connections.

    uvicorn closes idle connections at once: a request on its way over a kept connection, or a connection that waits to
    be accepted, would meet a reset, and its client could not tell whether the request was processed. From `on_stop` on,
    responses should carry `Connection: close`.
    """

    def __init__(self, config: uvicorn.Config, *, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the process, which sets `should_exit`: uvicorn's would raise them again at the end."""
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop accepting, answer the clients that are connected, and close."""
        self._on_stop()
        give_up = time.monotonic() + GRACE_S
        quiet = 0
        while quiet < QUIET_TURNS and time.monotonic() < give_up:
            await asyncio.sleep(0)  # the event loop accepts
            quiet = 0 if self._has_backlog() else quiet + 1
        for server in self.servers:
            server.close()
        while self.server_state.connections and time.monotonic() < give_up and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _has_backlog(self) -> bool:
        poll = select.poll()
        for server in self.servers:
            for listener in server.sockets:
                poll.register(listener.fileno(), select.POLLIN)
        return bool(poll.poll(0))


class LingeringClose:
    """The `receive` and `send` of one request, whose unread body is drained before the response ends.

    A connection closed with unread bytes is reset, and a client that is still sending may lose the refusal that was
    sent to it (RFC 9112, 9.6).
    """

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._body_read = False
        self._response_open = False

    async def receive(self) -> Message:
        """The next message of the request."""
        message = await self._receive()
        self._body_read = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the response, which stays open while the request's body has not ended."""
        if message["type"] == "http.response.body" and not message.get("more_body", False) and not self._body_read:
            self._response_open = True
            message = {**message, "more_body": True}
        await self._send(message)

    async def finish(self) -> None:
        """Drain the body and end the response, if it is still open."""
        if not self._response_open:
            return
        give_up = time.monotonic() + LINGER_S
        try:
            while not self._body_read and time.monotonic() < give_up:
                async with asyncio.timeout(LINGER_SILENCE_S):
                    await self.receive()
        except TimeoutError:
            pass
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
