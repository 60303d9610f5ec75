"""What every request passes first: counted, timed, bounded in number and bytes, and never left without an answer."""

import logging
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BodyTooLarge, TooManyRequests, kind_of, problem_response
from server.metrics import Metrics
from server.settings import Settings

log = logging.getLogger(__name__)

WORK = ("/detect", "/classify", "/similarity")
# A metric's label comes from this list, never from the client's path.
ENDPOINTS = frozenset((*WORK, "/models", "/livez", "/readyz", "/metrics", "/docs", "/openapi.json"))


class Gate:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, *, settings: Settings, metrics: Metrics) -> None:
        self._app, self._settings, self._metrics = app, settings, metrics
        self._working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        endpoint = scope["path"] if scope["path"] in ENDPOINTS else "other"
        answer = _Answer(send)
        started = time.monotonic()
        with self._metrics.inflight_requests.track_inprogress():
            try:
                await self._answer(scope, receive, answer, working=endpoint in WORK)
            finally:
                self._metrics.request_duration.labels(endpoint).observe(time.monotonic() - started)
                self._metrics.requests.labels(endpoint, answer.status or "none").inc()

    async def _answer(self, scope: Scope, receive: Receive, answer: "_Answer", *, working: bool) -> None:
        self._working += working
        try:
            self._refuse(scope, working=working)
            await self._app(scope, _Bounded(receive, self._settings.max_body_bytes), answer)
        except Exception as error:
            if not isinstance(error, BodyTooLarge | TooManyRequests):
                log.exception("unforeseen error in %s %s", scope["method"], answer.status or "before the answer")
            if answer.status:
                raise  # the answer has begun: only closing the connection says that it is not whole
            self._metrics.reject(kind_of(error))
            await problem_response(error)(scope, receive, answer)
        finally:
            self._working -= working

    def _refuse(self, scope: Scope, *, working: bool) -> None:
        if working and self._working > self._settings.max_inflight_requests:
            raise TooManyRequests(
                f"{self._settings.max_inflight_requests} requests are in progress, the most allowed", retry_after=1
            )
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.max_body_bytes:
            raise _too_large(self._settings.max_body_bytes)


class _Bounded:
    """A `receive` that stops a body at its bound, whatever its Content-Length says."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._bytes = receive, limit, 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limit:
            raise _too_large(self._limit)
        return message


class _Answer:
    """A `send` that remembers the status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = ""

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = str(message["status"])
        await self._send(message)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {limit} bytes, the most accepted")
