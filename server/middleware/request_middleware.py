"""ASGI middleware around the app: request id, metrics, log line, trace, API key, limits, deadline, error responses."""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import (
    BodyTooLarge,
    DeadlinePassed,
    Fault,
    Forbidden,
    NotReady,
    kind_of,
    problem_response,
)
from server.middleware.admission import Admission
from server.middleware.auth import Keys
from server.middleware.endpoints import (
    INFERENCE_ENDPOINTS,
    JOBS,
    OTHER,
    POLLED_ENDPOINTS,
    SUBMIT,
    Endpoints,
    local_path,
)
from server.middleware.uvicorn_server import LingeringClose
from server.request_context import PRIORITY, REQUEST_ID, TIMEOUT, RequestContext, request_context
from server.schemas import ADMIN_BUNDLES
from server.settings import Settings
from server.telemetry.logs import current, log_access
from server.telemetry.metrics import Metrics
from server.telemetry.tracing import Tracing, known_method

log = logging.getLogger(__name__)

TRACEPARENT = "traceparent"  # W3C Trace Context
_CORS_REQUEST_HEADERS = (
    "Authorization", "Content-Type", "X-API-Key", PRIORITY, REQUEST_ID, TIMEOUT, TRACEPARENT, "tracestate",
)  # fmt: skip
_CORS_RESPONSE_HEADERS = ("Location", "Retry-After", "Server-Timing", REQUEST_ID, TRACEPARENT)


class RequestMiddleware:
    """ASGI middleware around the whole app."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: Settings,
        endpoints: Endpoints,
        metrics: Metrics,
        keys: Keys | None,
        admission: Admission,
        tracing: Tracing,
    ) -> None:
        self._app, self._settings, self._metrics, self._keys = app, settings, metrics, keys
        self._endpoints, self._admission, self._tracing = endpoints, admission, tracing
        self._inner: ASGIApp = self._guard
        if settings.cors_origins:  # outside the guard, so that a web page can read why it was refused
            self._inner = _ProblemCors(
                self._guard,
                allow_origins=settings.cors_origins,
                allow_methods=("GET", "POST", "DELETE"),
                allow_headers=_CORS_REQUEST_HEADERS,
                expose_headers=_CORS_RESPONSE_HEADERS,
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        context = RequestContext.of(scope, endpoint=self._endpoints.of(scope))
        scope.setdefault("state", {})["request_context"] = context
        current.set(context)
        if context.endpoint not in POLLED_ENDPOINTS:
            context.timer.trace = self._tracing.request(scope["method"], context.endpoint, Headers(scope=scope))
        lingering = LingeringClose(scope, receive, send)
        head = scope["method"] == "HEAD"
        response = _ResponseSend(lingering.send, context, last=lambda: _stopping(scope), head=head)
        started = time.monotonic()
        with self._metrics.inflight_requests.track_inprogress():
            try:
                await self._inner(_as_get(scope), lingering.receive, response)
            finally:
                self._record(scope, context, response.status, time.monotonic() - started)
        await lingering.finish()

    def _record(self, scope: Scope, context: RequestContext, status: int | None, seconds: float) -> None:
        endpoint = context.endpoint
        self._metrics.request_duration.labels(endpoint).observe(seconds)
        self._metrics.requests.labels(endpoint, str(status or "none")).inc()
        context.timer.trace.end(status=status, model=context.model)
        method = known_method(scope["method"])
        fields: dict[str, Any] = {"method": method, "endpoint": endpoint, "status": status or "none"}
        fields |= {"model": context.model or "none", "ms": round(seconds * 1000, 1), "client": context.client or "none"}
        if self._settings.log_inputs:
            fields |= {"path": scope["path"], "inputs": context.inputs or {}}
        log_access(logging.DEBUG if endpoint in POLLED_ENDPOINTS and status == 200 else logging.INFO, **fields)

    async def _guard(self, scope: Scope, receive: Receive, send: Send) -> None:
        response = _ResponseSend(send)
        endpoint = request_context(scope).endpoint
        with ExitStack() as held:
            try:
                self._authenticate(scope)
                if endpoint == OTHER:
                    await self._send_problem(HTTPException(404), scope, receive, response)
                    return
                self._check_limits(scope, held)
                bounded = _BoundedReceive(receive, self._settings.max_body_bytes)
                await self._run_within_deadline(scope, bounded, response)
            except asyncio.CancelledError:
                if response.status or not _stopping(scope):
                    raise
                limit = self._settings.shutdown_timeout_s
                error = NotReady(f"the server is stopping, and the request did not finish within {limit} s")
                await self._send_problem(error, scope, receive, response)
            except Exception as error:
                if not isinstance(error, Fault):
                    when = response.status or "before the response"
                    log.exception("unexpected error in %s %s", known_method(scope["method"]), when)
                if response.status:
                    raise  # the response has begun: only closing the connection shows that it is incomplete
                await self._send_problem(error, scope, receive, response)

    async def _send_problem(self, error: Exception, scope: Scope, receive: Receive, send: Send) -> None:
        self._metrics.reject(kind_of(error))
        response = problem_response(error, request_id=request_context(scope).request_id, path=local_path(scope))
        await response(scope, receive, send)

    async def _run_within_deadline(self, scope: Scope, receive: Receive, response: "_ResponseSend") -> None:
        """Run the app; DeadlinePassed, and its work cancelled, if the deadline passes before the response begins."""
        context = request_context(scope)
        try:
            async with context.deadline() as limit:
                response.on_start = lambda: limit.reschedule(None)
                await self._app(scope, receive, response)
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlinePassed(f"the request did not finish within {context.timeout_s:g} s, its deadline") from None
        finally:
            response.on_start = None

    def _authenticate(self, scope: Scope) -> None:
        context = request_context(scope)
        if self._keys and context.endpoint not in self._settings.open_endpoints:
            key = self._keys.key(Headers(scope=scope))
            context.client, context.admin = key.name, key.admin
        if context.endpoint == ADMIN_BUNDLES and not context.admin:  # before anything of the body is read
            raise Forbidden(f"the API key of {context.client} is not an admin key: `openset key new --admin` makes one")

    def _check_limits(self, scope: Scope, held: ExitStack) -> None:
        """Refuse what passes a limit; otherwise `held` has a place and, for its body, a share of memory."""
        headers, context = Headers(scope=scope), request_context(scope)
        if context.endpoint in INFERENCE_ENDPOINTS:
            context.priority = "batch" if context.endpoint == SUBMIT else context.priority
            context.read_scheduling(headers)
        if context.endpoint in (*INFERENCE_ENDPOINTS, ADMIN_BUNDLES):
            held.enter_context(self._admission.place(context))
        elif context.endpoint == JOBS:
            held.enter_context(self._admission.memory(context))
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self._settings.max_body_bytes:
            raise _body_too_large(self._settings.max_body_bytes)


class _ProblemCors(CORSMiddleware):
    """Answers a refused preflight request with a problem document."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == HTTPStatus.OK:
            return response
        return problem_response(HTTPException(response.status_code, bytes(response.body).decode()))


class _BoundedReceive:
    """A `receive` that ends a body at the limit, whatever its Content-Length says."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit, self._bytes = receive, limit, 0

    async def __call__(self) -> Message:
        message = await self._receive()
        self._bytes += len(message.get("body", b""))
        if self._bytes > self._limit:
            raise _body_too_large(self._limit)
        return message


class _ResponseSend:
    """A `send` that keeps the status, and adds headers: request id, trace, stage timings.

    `last` says, once the response begins, whether it is the last one of its connection.
    """

    def __init__(
        self,
        send: Send,
        context: RequestContext | None = None,
        *,
        last: Callable[[], bool] = lambda: False,
        head: bool = False,
    ) -> None:
        self._send, self._context, self._last, self._head = send, context, last, head
        self.status: int | None = None
        self.on_start: Callable[[], None] | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.on_start:
                self.on_start()
            if self._context:
                headers = MutableHeaders(scope=message)
                headers[REQUEST_ID] = self._context.request_id
                if traceparent := self._context.timer.trace.traceparent:
                    headers[TRACEPARENT] = traceparent
                if self._last():
                    headers["Connection"] = "close"
                if self.status == HTTPStatus.METHOD_NOT_ALLOWED and headers.get("Allow") == "GET":
                    headers["Allow"] = "GET, HEAD"
                if timings := self._context.timer.server_timing():
                    headers["Server-Timing"] = timings
        elif self._head:
            message = {**message, "body": b""}
        await self._send(message)


def _as_get(scope: Scope) -> Scope:
    """The scope as the routes see it: HEAD is GET, whose body is not sent, and no part of an answer is asked for.

    A server may ignore Range (RFC 9110, 14.2).
    """
    headers = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
    return {**scope, "method": "GET" if scope["method"] == "HEAD" else scope["method"], "headers": headers}


def _stopping(scope: Scope) -> bool:
    return bool(scope["app"].state.stopping)


def _body_too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"the body has more than {limit} bytes, the limit (max_body_bytes)")
