"""An `openset serve` process of its own, watched from outside: its metrics, and what /proc tells of it."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 120
_SERIES = re.compile(r"^(openset_\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)


class LiveServer:
    """A server that is ready; `log` is where its standard error goes."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log
        self.url = f"http://127.0.0.1:{port}"
        self._client = httpx.Client(base_url=self.url, timeout=READY_WITHIN_S)

    def metrics(self) -> dict[str, float]:
        """Every series as it stands, by its name and labels as Prometheus' text has them."""
        text = self._client.get("/metrics").text
        return {name + labels: float(value) for name, labels, value in _SERIES.findall(text)}

    def total(self, name: str, *labels: str) -> float:
        """The sum of a metric's series that have all `labels`, each like `status="200"`."""
        return total(self.metrics(), name, *labels)

    def resident_bytes(self) -> int:
        """Memory of the process that is in RAM."""
        return int((self._proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        """Open files and sockets."""
        return len(list((self._proc / "fd").iterdir()))

    def threads(self) -> int:
        """Threads of the process."""
        return len(list((self._proc / "task").iterdir()))

    def terminate(self) -> None:
        """Ask it to stop, as an orchestrator does."""
        self.process.send_signal(signal.SIGTERM)

    @property
    def _proc(self) -> Path:
        return Path("/proc") / str(self.process.pid)


def total(metrics: dict[str, float], name: str, *labels: str) -> float:
    """The sum of a metric's series in `metrics` that have all `labels`."""
    return sum(
        value
        for series, value in metrics.items()
        if series.partition("{")[0] == name and all(label in series for label in labels)
    )


@contextlib.contextmanager
def serving(folder: Path, *flags: str) -> Iterator[LiveServer]:
    """A server with the bundled models, started with `flags`; ready now, ended afterwards. Its log is in `folder`."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--log-format", "json", *flags]
    log = folder / "server.log"
    with log.open("wb") as errors, subprocess.Popen(command, cwd=ROOT, stderr=errors) as process:
        server = LiveServer(process, port, log)
        try:
            _await_ready(server)
            yield server
        finally:
            if process.poll() is None:
                process.kill()


def _await_ready(server: LiveServer) -> None:
    give_up = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < give_up:
        if server.process.poll() is not None:
            raise RuntimeError(f"the server ended: {server.log.read_text()}")
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(server.url + "/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the server was not ready within {READY_WITHIN_S} s")
