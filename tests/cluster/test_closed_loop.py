"""The clients of the acceptance: every outcome is kept, and nothing is repeated."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.cluster.closed_loop import ClosedLoop, Question


class Every(BaseHTTPRequestHandler):
    """Answers 429, 200 and nothing, in turn."""

    protocol_version = "HTTP/1.1"
    seen = 0

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        type(self).seen += 1
        if self.seen % 3 == 0:
            self.close_connection = True
            return
        self.send_response(429 if self.seen % 3 == 1 else 200)
        self.send_header("Content-Length", "0")
        self.send_header("Retry-After", "7")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Every) as server:
        running = threading.Thread(target=server.serve_forever)
        running.start()
        yield server
        server.shutdown()
        running.join()


def test_answers_refusals_and_losses_are_counted_once(server):
    with ClosedLoop(server.server_port, Question.about("/detect", b"picture", "dog"), 1) as load:
        while len(load.outcomes) < 9:
            time.sleep(0.01)
    counts = load.counts
    assert sum(counts.values()) == len(load.outcomes) == Every.seen
    assert set(counts) > {"200", "429"}
    assert load.lost == sum(counts.values()) - counts["200"] > 0
    assert [outcome.retry_after for outcome in load.outcomes if outcome.result == "429"] == ["7"] * counts["429"]
