"""What every request passes first: named, counted, timed, let in by key, bounded, and never left without an answer."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import BodyTooLarge, DeadlinePassed, Fault, NotReady, TooManyRequests, kind_of, problem_response
from server.middleware.auth import Keys
from server.middleware.lingering_close import Lingering
from server.request_context import PRIORITY, REQUEST_ID, TIMEOUT, RequestContext, request_context
from server.routes.page import FILES as PAGE_FILES
from server.schemas import ADMIN_BUNDLES
from server.settings import OPEN_ENDPOINTS, Settings
from server.telemetry.logs import current, log_access
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import Tracing

log = logging.getLogger(__name__)

INFER, MODEL = "/v2/models/:name/infer", "/v2/models/:name"
WORK = ("/detect", "/classify", "/similarity", INFER)
# A metric's label comes from this list, never from the client's path.
ENDPOINTS = frozenset((*WORK, *OPEN_ENDPOINTS, ADMIN_BUNDLES))
_OF_MODEL = re.compile(r"/v2/models/[^/]+(?:/versions/[^/]+)?(/infer|/ready)?")
TRACEPARENT = "traceparent"  # W3C Trace Context
_ASKED = ("Authorization", "Content-Type", "X-API-Key", PRIORITY, REQUEST_ID, TIMEOUT, TRACEPARENT, "tracestate")
_TOLD = ("Retry-After", "Server-Timing", REQUEST_ID, TRACEPARENT)
# Asked every few seconds by machines: their good answers are told in detail only.
_POLLED = ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")


class RequestMiddleware:
    """ASGI middleware around the whole app."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        metrics: Metrics,
        keys: Keys | None,
        retry_after: Callable[[], int],
        tracing: Tracing,
    ) -> None:
        self._app, self._settings, self._metrics, self._keys = app, settings, metrics, keys
        self._retry_after, self._tracing = retry_after, tracing
        self._working = 0
        self._inner: ASGIApp = self._guarded
        if settings.cors_origins:  # outside the guard, so that a page can read why it was refused
            self._inner = _Cors(
                self._guarded,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "POST"),
                allow_headers=_ASKED,
                expose_headers=_TOLD,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext.of(scope)
        scope.setdefault("state", {})["request_context"] = context
        current.set(context)
        if (endpoint := _endpoint(scope)) not in _POLLED:
            context.timer.trace = self._tracing.request(scope["method"], endpoint, Headers(scope=scope))
        lingering = Lingering(receive, send)
        answer = _Answer(lingering.send, context, last=lambda: _stopping(scope))
        started = time.monotonic()
        with self._metrics.inflight_requests.track_inprogress():
            try:
                await self._inner(scope, lingering.receive, answer)
            finally:
                self._note(scope, context, answer.status or "none", time.monotonic() - started)
        await lingering.finish()

    def _note(self, scope: Scope, context: RequestContext, status: str, seconds: float) -> None:
        endpoint = _endpoint(scope)
        self._metrics.request_duration.labels(endpoint).observe(seconds)
        self._metrics.requests.labels(endpoint, status).inc()
        fields: dict[str, Any] = {"method": scope["method"], "endpoint": endpoint}
        fields |= {"status": int(status) if status.isdecimal() else status, "model": context.model or "none"}
        fields |= {"ms": round(seconds * 1000, 1), "client": context.client or "none"}
        context.timer.trace.end(status=int(status) if status.isdecimal() else None, model=context.model)
        if self._settings.log_inputs:
            fields |= {"path": scope["path"], "inputs": context.inputs or {}}
        log_access(logging.DEBUG if endpoint in _POLLED and status == "200" else logging.INFO, **fields)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = _Answer(send)
        working = _endpoint(scope) in WORK
        self._working += working
        try:
            self._let_in(scope)
            self._refuse(scope, working=working)
            await self._in_time(scope, _Bounded(receive, self._settings.max_body_bytes), answer)
        except asyncio.CancelledError:
            if answer.status or not _stopping(scope):
                raise
            limit = self._settings.shutdown_timeout_s
            error = NotReady(f"the server is stopping, and the request was not done within {limit} s")
            await self._fail(error, scope, receive, answer)
        except Exception as error:
            if not isinstance(error, Fault):
                log.exception("unforeseen error in %s %s", scope["method"], answer.status or "before the answer")
            if answer.status:
                raise  # the answer has begun: only closing the connection says that it is not whole
            await self._fail(error, scope, receive, answer)
        finally:
            self._working -= working

    async def _fail(self, error: Exception, scope: Scope, receive: Receive, answer: Send) -> None:
        self._metrics.reject(kind_of(error))
        response = problem_response(error, request_id=request_context(scope).request_id, path=scope["path"])
        await response(scope, receive, answer)

    async def _in_time(self, scope: Scope, receive: Receive, answer: "_Answer") -> None:
        """Pass on a request; DeadlinePassed, its work dropped, where its time ends before its answer begins."""
        timeout_s = request_context(scope).timeout_s
        try:
            async with asyncio.timeout(timeout_s) as limit:
                answer.on_start = lambda: limit.reschedule(None)
                await self._app(scope, receive, answer)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlinePassed(f"the request was not done within the {timeout_s:g} s of its {TIMEOUT}") from None
        finally:
            answer.on_start = None

    def _let_in(self, scope: Scope) -> None:
        if self._keys and _endpoint(scope) not in self._settings.open_endpoints:
            key, context = self._keys.key(Headers(scope=scope)), request_context(scope)
            context.client, context.admin = key.name, key.admin

    def _refuse(self, scope: Scope, *, working: bool) -> None:
        if working:
            request_context(scope).read_scheduling(Headers(scope=scope))
        if working and self._working > self._settings.max_inflight_requests:
            raise TooManyRequests(
                f"{self._settings.max_inflight_requests} requests are in progress, the most allowed",
                retry_after=self._retry_after(),
            )
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.max_body_bytes:
            raise _too_large(self._settings.max_body_bytes)


class _Cors(CORSMiddleware):
    """Answers a refused preflight with a problem, as every refusal."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == HTTPStatus.OK:
            return response
        return problem_response(HTTPException(response.status_code, bytes(response.body).decode()))


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
    """A `send` that remembers the status, and tells a caller its request's id and how long the stages took.

    It also tells whether its answer is the `last` of its connection, once it begins.
    """

    def __init__(
        self, send: Send, context: RequestContext | None = None, *, last: Callable[[], bool] = lambda: False
    ) -> None:
        self._send, self._context, self._last = send, context, last
        self.status = ""
        self.on_start: Callable[[], None] | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = str(message["status"])
            if self.on_start:
                self.on_start()
            if self._context:
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = self._context.request_id
                if traceparent := self._context.timer.trace.traceparent:
                    headers[TRACEPARENT] = traceparent
                if self._last():
                    headers["Connection"] = "close"
                if timings := self._context.timer.server_timing():
                    headers["Server-Timing"] = timings
        await self._send(message)


def _stopping(scope: Scope) -> bool:
    return bool(scope["app"].state.stopping)


def _endpoint(scope: Scope) -> str:
    path: str = scope["path"]
    if path.startswith(PAGE_FILES):
        return "/"
    if path not in ENDPOINTS and (of_model := _OF_MODEL.fullmatch(path)):
        return INFER if of_model[1] == "/infer" else MODEL
    if path.startswith(ADMIN_BUNDLES + "/"):  # what follows is a bundle's name
        return ADMIN_BUNDLES
    return path if path in ENDPOINTS else "other"


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {limit} bytes, the most accepted")
