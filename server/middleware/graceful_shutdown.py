"""A server that stops without cutting off who was about to ask.

Uvicorn closes idle connections as soon as it is told to stop. A request that is just then on its way over a kept
connection, or whose new connection waits to be accepted, would meet a reset, and its client could not tell whether it
had been worked on.
"""

import asyncio
import select
import socket
import time
from collections.abc import Callable

import uvicorn

# What was sent before a client could know arrives within it; then idle connections are closed.
GRACE_S = 1.0
# Of the event loop without a new connection: one that was accepted becomes the server's own only in the next turn, and
# is dropped where the listener has been closed by then.
QUIET_TURNS = 3


class GracefulServer(uvicorn.Server):
    """Told to stop, it accepts nobody new, calls `on_stop`, and lets open connections speak up before it closes them.

    From `on_stop` on answers should say that their connection closes.
    """

    def __init__(self, config: uvicorn.Config, *, on_stop: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop; whoever was connected is answered."""
        self._on_stop()
        give_up = time.monotonic() + GRACE_S
        quiet = 0
        while quiet < QUIET_TURNS and time.monotonic() < give_up:
            await asyncio.sleep(0)  # the event loop accepts who waits
            quiet = 0 if self._waiting_to_be_accepted() else quiet + 1
        for server in self.servers:
            server.close()
        while self.server_state.connections and time.monotonic() < give_up and not self.force_exit:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _waiting_to_be_accepted(self) -> bool:
        waiting = select.poll()
        for server in self.servers:
            for listener in server.sockets:
                waiting.register(listener.fileno(), select.POLLIN)
        return bool(waiting.poll(0))
