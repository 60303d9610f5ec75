"""Request tracing with OpenTelemetry; nothing is recorded unless `otlp_endpoint` names a collector.

Spans are made through `opentelemetry-api`, whose own tracer does nothing. The SDK and the OTLP/HTTP exporter (the extra
`otel`) are imported only where there is a collector. The providers are not the process's global ones, so that no other
library records to them.
"""

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NoOpTracer, SpanContext, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.installation import install_command
from server.settings import Settings, SettingsError
from server.telemetry.metrics import package_version

Attribute = str | int | float | bool
Link = SpanContext | None  # the span that another one points to

PATH = "/v1/traces"
EXPORT_TIMEOUT_S = 5  # for a batch of spans, retries included
_PROPAGATOR = TraceContextTextMapPropagator()
# RFC 9110 and RFC 5789; any other method is text that a client made up.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
_NO_TRACER = NoOpTracer()
# Spans carry times of day; the server measures with the monotonic clock.
_EPOCH_NS = time.time_ns() - time.monotonic_ns()


class Trace:
    """The spans of one request. Times are those of `time.monotonic`; attributes never hold what a client sent."""

    def __init__(self, span: trace.Span = trace.INVALID_SPAN, tracer: Tracer = _NO_TRACER) -> None:
        self._span, self._tracer = span, tracer

    @property
    def link(self) -> SpanContext:
        """The context of the request's own span, for other spans to point to."""
        return self._span.get_span_context()

    @property
    def trace_id(self) -> str:
        """32 hexadecimal digits; empty without a trace."""
        return trace.format_trace_id(self.link.trace_id) if self.link.is_valid else ""

    @property
    def traceparent(self) -> str:
        """The request's own span as a W3C Trace Context header; empty without a trace."""
        carrier = {"traceparent": ""}
        if self.link.is_valid:
            _PROPAGATOR.inject(carrier, context=self._context)
        return carrier["traceparent"]

    @property
    def _context(self) -> Context:
        return trace.set_span_in_context(self._span, Context())

    def stage(
        self,
        name: str,
        started: float,
        ended: float,
        attributes: Mapping[str, Attribute] | None = None,
        to: Link = None,
    ) -> None:
        """Record a stage of the request, with a link to the span `to`."""
        if self._span.is_recording():
            span = self._tracer.start_span(
                name, context=self._context, attributes=attributes, links=_links([to]), start_time=_unix_ns(started)
            )
            span.end(_unix_ns(ended))

    def end(self, *, status: int | None, model: str) -> None:
        """End the request's span; `status` is None where no response was sent."""
        if model:
            self._span.set_attribute("openset.model", model)
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if status is None or status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(_unix_ns(time.monotonic()))


@dataclass(frozen=True)
class Tracing:
    """Starts the spans of requests and of model runs; does nothing without tracers. `close` sends what is left."""

    requests: Tracer = _NO_TRACER
    executions: Tracer = _NO_TRACER
    close: Callable[[], None] = lambda: None

    def request(self, method: str, endpoint: str, headers: Mapping[str, str]) -> Trace:
        """Start the trace of a request, or continue the one that its `traceparent` header names."""
        if self.requests is _NO_TRACER:  # it would answer with the client's own `traceparent`
            return Trace()
        method = known_method(method)
        span = self.requests.start_span(
            f"{method} {endpoint}",
            context=_PROPAGATOR.extract(headers, context=Context()),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": endpoint},
            start_time=_unix_ns(time.monotonic()),
        )
        return Trace(span, self.requests)

    def execution(
        self, traces: Sequence[Trace], started: float, ended: float, attributes: Mapping[str, Attribute]
    ) -> Link:
        """Record a model run, linked to the requests of these traces, where one of them is sampled."""
        links = _links(trace.link for trace in traces)
        if not any(link.context.trace_flags.sampled for link in links):
            return None
        # A run belongs to no single request: it is a trace of its own that links to all of them.
        span = self.executions.start_span(
            "execution", context=Context(), attributes=attributes, links=links, start_time=_unix_ns(started)
        )
        span.end(_unix_ns(ended))
        return span.get_span_context()


def open_tracing(settings: Settings) -> Tracing:
    """Tracing to the collector `otlp_endpoint`, with or without `/v1/traces` in it; without one, it does nothing.

    OTEL_TRACES_SAMPLER chooses the requests, OTEL_EXPORTER_OTLP_HEADERS holds the collector's credentials.
    SettingsError where the extra `otel` is missing.
    """
    if settings.otlp_endpoint is None:
        return Tracing()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"otlp_endpoint={settings.otlp_endpoint!r} needs OpenTelemetry's SDK ({error}); install it with:"
            f" {install_command(('otel',))}"
        ) from None
    name = os.environ.get("OTEL_SERVICE_NAME") or "openset"
    resource = Resource.create({"service.name": name, "service.version": package_version("openset")})
    url = settings.otlp_endpoint.rstrip("/").removesuffix(PATH) + PATH
    processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT_S))
    # None: the sampler of the environment. Model runs are not sampled again, they follow their requests.
    requests, executions = (
        TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False) for sampler in (None, ALWAYS_ON)
    )
    for provider in (requests, executions):
        provider.add_span_processor(processor)
    return Tracing(requests.get_tracer("openset"), executions.get_tracer("openset"), close=requests.shutdown)


def known_method(method: str) -> str:
    """The method of a request, `_OTHER` for one that a client made up."""
    return method if method in _METHODS else "_OTHER"


def _links(contexts: Iterable[Link]) -> list[trace.Link]:
    """A link to each valid span, once."""
    spans = {context.span_id: context for context in contexts if context is not None and context.is_valid}
    return [trace.Link(context) for context in spans.values()]


def _unix_ns(monotonic_s: float) -> int:
    return _EPOCH_NS + int(monotonic_s * 1e9)
