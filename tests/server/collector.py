"""A collector of OpenTelemetry traces: a small OTLP/HTTP server that keeps the spans it is sent."""

import http.server
import threading

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Collector(http.server.ThreadingHTTPServer):
    """Listens on a free port of loopback; `spans` are those of all requests, `resource` their sender's attributes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.spans, self.resource, self.paths, self.raw = [], {}, set(), b""

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def named(self, name):
        return [span for span in self.spans if span.name == name]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.raw += body
        self.server.paths.add(self.path)
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.server.resource |= attributes(group.resource)
            self.server.spans += [span for scope in group.scope_spans for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def attributes(described):
    """The attributes of a span or a resource, as plain values."""
    return {entry.key: getattr(entry.value, entry.value.WhichOneof("value")) for entry in described.attributes}
