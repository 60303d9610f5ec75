"""Spans of requests: what the rest of the server notes, whether or not anybody records it.

These classes record nothing. `server.telemetry.otel` has those that do, and is imported only where the operator names a
collector.
"""

from collections.abc import Mapping, Sequence

from server.settings import Settings, SettingsError

Attribute = str | int | float | bool
# A span that others may point to, whatever class the recorder has for it; None where nothing is recorded.
Link = object | None


class Trace:
    """The spans of one request. Times are those of `time.monotonic`; attributes never hold what a client sent."""

    trace_id = ""  # 32 hexadecimal digits
    traceparent = ""  # as W3C Trace Context has it, of the request's own span
    link: Link = None

    def stage(
        self,
        name: str,
        started: float,
        ended: float,
        attributes: Mapping[str, Attribute] | None = None,
        to: Link = None,
    ) -> None:
        """Note a stage of the request, and the span it points to."""

    def end(self, *, status: int | None, model: str) -> None:
        """The request has its answer, or (None) was left without one."""


class Tracing:
    """Makes the spans."""

    def request(self, method: str, endpoint: str, headers: Mapping[str, str]) -> Trace:
        """The trace of a request that begins now; it continues the one that its headers name."""
        return Trace()

    def execution(
        self, traces: Sequence[Trace], started: float, ended: float, attributes: Mapping[str, Attribute]
    ) -> Link:
        """Note a model run for the requests of these traces."""
        return None

    def close(self) -> None:
        """Send what is left."""


def open_tracing(settings: Settings) -> Tracing:
    """What the settings ask for; SettingsError where OpenTelemetry is not installed."""
    if settings.otlp_endpoint is None:
        return Tracing()
    try:
        from server.telemetry.otel import OtelTracing
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"otlp_endpoint={settings.otlp_endpoint!r} needs OpenTelemetry ({error}); install it with:"
            " pip install 'openset[otel]'"
        ) from None
    return OtelTracing(settings.otlp_endpoint, share=settings.trace_share)
