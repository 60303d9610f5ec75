"""Spans recorded by OpenTelemetry's SDK and sent to a collector over OTLP/HTTP; the extra `otel` brings both.

The providers are the server's own and never the process's global ones, so that nothing else records to them.
"""

import os
import time
from collections.abc import Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, TraceIdRatioBased
from opentelemetry.trace import SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from server.telemetry.metrics import package_version
from server.telemetry.tracing import Attribute, Link, Trace, Tracing

PATH = "/v1/traces"
SEND_WITHIN_S = 5  # a batch, its repetitions included
_NAMES = TraceContextTextMapPropagator()
# HTTP's own (RFC 9110 and 5789); any other is the client's own text.
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
# Spans have times of day; the server measures on the clock that nobody turns.
_EPOCH_NS = time.time_ns() - time.monotonic_ns()


class OtelTrace(Trace):
    """A request's span and those of its stages."""

    def __init__(self, tracer: trace.Tracer, method: str, endpoint: str, headers: Mapping[str, str]) -> None:
        method = method if method in _METHODS else "_OTHER"
        self._tracer = tracer
        self._span = tracer.start_span(
            f"{method} {endpoint}",
            context=_NAMES.extract(headers, context=Context()),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": endpoint},
            start_time=_day_ns(time.monotonic()),
        )
        self._context = trace.set_span_in_context(self._span, Context())
        carrier: dict[str, str] = {}
        _NAMES.inject(carrier, context=self._context)
        self.traceparent = carrier.get("traceparent", "")
        self.link = self._span.get_span_context()
        self.trace_id = trace.format_trace_id(self._span.get_span_context().trace_id)

    def stage(
        self,
        name: str,
        started: float,
        ended: float,
        attributes: Mapping[str, Attribute] | None = None,
        to: Link = None,
    ) -> None:
        span = self._tracer.start_span(
            name, context=self._context, attributes=attributes, links=_links([to]), start_time=_day_ns(started)
        )
        span.end(_day_ns(ended))

    def end(self, *, status: int | None, model: str) -> None:
        if model:
            self._span.set_attribute("openset.model", model)
        if status is not None:
            self._span.set_attribute("http.response.status_code", status)
        if status is None or status >= 500:
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(_day_ns(time.monotonic()))


class OtelTracing(Tracing):
    """Sends spans to a collector: `endpoint` is its address, without or with the path for traces.

    `share` of the requests are recorded, unless the request says itself whether it is. Credentials of the collector
    come from OTEL_EXPORTER_OTLP_HEADERS, as OpenTelemetry has it.
    """

    def __init__(self, endpoint: str, *, share: float) -> None:
        resource = Resource.create(
            {
                "service.name": os.environ.get("OTEL_SERVICE_NAME") or "openset",
                "service.version": package_version("openset"),
            }
        )
        url = endpoint.rstrip("/").removesuffix(PATH) + PATH
        processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=url, timeout=SEND_WITHIN_S))
        samplers = ParentBased(TraceIdRatioBased(share)), ALWAYS_ON
        self._providers = [
            TracerProvider(sampler=sampler, resource=resource, shutdown_on_exit=False) for sampler in samplers
        ]
        for provider in self._providers:
            provider.add_span_processor(processor)
        self._requests, self._executions = (provider.get_tracer("openset") for provider in self._providers)

    def request(self, method: str, endpoint: str, headers: Mapping[str, str]) -> Trace:
        return OtelTrace(self._requests, method, endpoint, headers)

    def execution(
        self, traces: Sequence[Trace], started: float, ended: float, attributes: Mapping[str, Attribute]
    ) -> Link:
        links = _links([trace.link for trace in traces])
        if not any(link.context.trace_flags.sampled for link in links):
            return None
        # A run belongs to no single request: it is a trace of its own, and points to those of all its requests.
        span = self._executions.start_span(
            "execution", context=Context(), attributes=attributes, links=links, start_time=_day_ns(started)
        )
        span.end(_day_ns(ended))
        return span.get_span_context()

    def close(self) -> None:
        self._providers[0].shutdown()  # the processor is both providers'


def _links(contexts: Sequence[Link]) -> list[trace.Link]:
    """A link to each span, once."""
    found = {context.span_id: context for context in contexts if isinstance(context, trace.SpanContext)}
    return [trace.Link(context) for context in found.values()]


def _day_ns(monotonic_s: float) -> int:
    return _EPOCH_NS + int(monotonic_s * 1e9)
