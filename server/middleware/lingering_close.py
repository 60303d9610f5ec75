"""An answer that comes before its request's body has: what is left is read and dropped before the connection closes.

Closed with bytes unread, a connection is reset, and the client, still sending, may lose the answer that tells it why
(RFC 9112, 9.6): refusals would arrive as broken connections.
"""

import asyncio
import time

from starlette.types import Message, Receive, Send

# As long as bytes come, and that long in all.
SILENCE_S = 5.0
LONGEST_S = 30.0


class Lingering:
    """The `receive` and `send` of one request; `finish` ends the answer, after what the client still sends."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self._read = False
        self._unfinished = False

    async def receive(self) -> Message:
        """The next message of the request."""
        message = await self._receive()
        self._read = message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Pass on a message of the answer; the last one stays open where the request's body has not ended."""
        if message["type"] == "http.response.body" and not message.get("more_body", False) and not self._read:
            self._unfinished = True
            message = {**message, "more_body": True}
        await self._send(message)

    async def finish(self) -> None:
        """Drop what is left of the body, and end the answer."""
        if not self._unfinished:
            return
        give_up = time.monotonic() + LONGEST_S
        try:
            while not self._read and time.monotonic() < give_up:
                async with asyncio.timeout(SILENCE_S):
                    await self.receive()
        except TimeoutError:
            pass
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
