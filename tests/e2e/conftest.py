"""One `openset serve` with the bundled models for the tests of a module, and what to ask it."""

import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 60


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(condition, what, *, within_s=READY_WITHIN_S):
    """What `condition` returns, once that is true; no answer counts as false."""
    give_up = time.monotonic() + within_s
    while True:
        try:
            if result := condition():
                return result
        except httpx.TransportError:
            pass
        assert time.monotonic() < give_up, f"{what} within {within_s} s"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def server():
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, cwd=ROOT) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        client.timeout = 60

        def ready():
            assert process.poll() is None, "the server ended"
            return client.get("/readyz").status_code == 200

        try:
            until(ready, "the server is ready")
            client.pid = process.pid
            yield client
        finally:
            process.terminate()
