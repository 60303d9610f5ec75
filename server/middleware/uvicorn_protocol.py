"""HTTP/1.1 as uvicorn speaks it, its refusals being problems, and the time for a request's head being bounded."""

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from server.errors import PROBLEM, MalformedRequest, problem

# Until its head is there a request has no bound in the app, and its connection costs a descriptor.
HEAD_WITHIN_S = 30.0


class ProblemProtocol(H11Protocol):
    """Refuses what is no request with a problem, and closes connections that do not come to one."""

    _giving_up: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the head of a request."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what has come; with a request in it the waiting is over."""
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:
            self._wait()
        else:
            self._wait_no_more()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._wait_no_more()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what has come, and close the connection; `msg` is uvicorn's, which has logged it."""
        error = MalformedRequest("what came is no HTTP/1.1 request: its first line, a header or a chunk is malformed")
        document = json.dumps(problem(error)).encode()
        headers = [("Content-Type", PROBLEM), ("Content-Length", str(len(document))), ("Connection", "close")]
        refusal = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (refusal, h11.Data(data=document), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _wait(self) -> None:
        if self._giving_up is None:
            self._giving_up = self.loop.call_later(HEAD_WITHIN_S, self.transport.close)

    def _wait_no_more(self) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._giving_up = None
