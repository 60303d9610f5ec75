"""uvicorn's server and the end of a request, changed so that no client loses an answer to a connection that closes."""

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Callable, Iterator

import uvicorn
from starlette.types import Message, Receive, Scope, Send

from server.errors import MalformedRequest
from server.middleware.http_protocol import MALFORMED

# At shutdown: requests that clients sent before they could notice it arrive within this time.
GRACE_S = 1.0
# A connection that was accepted belongs to the server only one turn of the event loop later, and is dropped if the
# listener closes before: so many turns without a new connection must pass.
QUIET_TURNS = 3
# The rest of a body is read as long as bytes keep coming, and that long in all.
LINGER_SILENCE_S, LINGER_S = 5.0, 30.0
# An answer is handed to the connection in such pieces, each when the last was sent: the rest counts as the request's.
PIECE_BYTES = 64 * 1024


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

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._state, self._receive, self._send = scope["state"], receive, send
        self._body_read = False
        self._response_begun = self._response_open = False

    async def receive(self) -> Message:
        """The next message of the request; MalformedRequest where its body turns into something that is no HTTP."""
        message = await self._receive()
        malformed = bool(self._state.get(MALFORMED))
        self._body_read = malformed or message["type"] == "http.disconnect" or not message.get("more_body", False)
        if malformed and message["type"] == "http.request" and not self._response_begun:
            raise MalformedRequest("a chunk of the body is malformed, or its chunks are very small")
        return message

    async def send(self, message: Message) -> None:
        """Send a message of the response, which stays open while the request's body has not ended."""
        self._response_begun = True
        if message["type"] == "http.response.body":
            if not message.get("more_body", False) and not self._body_read:
                self._response_open = True
                message = {**message, "more_body": True}
            body, sent = message.get("body", b""), 0
            while len(body) - sent > PIECE_BYTES:
                await self._send({**message, "body": body[sent : sent + PIECE_BYTES], "more_body": True})
                sent += PIECE_BYTES
            message = {**message, "body": body[sent:]}
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
