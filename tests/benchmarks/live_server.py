"""An `openset serve` subprocess, observed from outside by its metrics and /proc."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[2]
READY_WITHIN_S = 120
_SERIES = re.compile(r"^(openset_\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)


class LiveServer:
    """A server that is ready; its standard error goes to `log`."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log
        self.url = f"http://127.0.0.1:{port}"
        self._client = httpx.Client(base_url=self.url, timeout=READY_WITHIN_S)

    def metrics(self) -> dict[str, float]:
        """Current value of every series, by name and labels as in Prometheus' text format."""
        text = self._client.get("/metrics").text
        return {name + labels: float(value) for name, labels, value in _SERIES.findall(text)}

    def total(self, name: str, *labels: str) -> float:
        """Sum of a metric's series that have all `labels`, each like `status="200"`."""
        return total(self.metrics(), name, *labels)

    def resident_bytes(self) -> int:
        """Resident memory of the process."""
        return int((self._proc / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Processor time of the process and of its decoders so far."""
        children = (self._proc / "task" / str(self.process.pid) / "children").read_text().split()
        forks = [pid for child in children for pid in Path(f"/proc/{child}/task/{child}/children").read_text().split()]
        return sum(_cpu_seconds(pid) for pid in (self.process.pid, *children, *forks))

    def descriptors(self) -> int:
        """Number of open files and sockets."""
        return len(list((self._proc / "fd").iterdir()))

    def threads(self) -> int:
        """Number of threads."""
        return len(list((self._proc / "task").iterdir()))

    def terminate(self) -> None:
        """Send SIGTERM, as an orchestrator does."""
        self.process.send_signal(signal.SIGTERM)

    @property
    def _proc(self) -> Path:
        return Path("/proc") / str(self.process.pid)


def total(metrics: dict[str, float], name: str, *labels: str) -> float:
    """Sum of a metric's series in `metrics` that have all `labels`."""
    return sum(
        value
        for series, value in metrics.items()
        if series.partition("{")[0] == name and all(label in series for label in labels)
    )


def _cpu_seconds(pid: int | str) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def serving(folder: Path, *flags: str, root: Path = ROOT) -> Iterator[LiveServer]:
    """Run a server with the bundled models and `flags`; yields it when ready. Its log is in `folder`.

    `root`: the checkout whose server it is.
    """
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--log-format", "json", *flags]
    log = folder / "server.log"
    with log.open("wb") as errors, subprocess.Popen(command, cwd=root, stderr=errors) as process:
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
        # Not httpx, each new client of which would take 26 ms of processor from the start.
        with contextlib.suppress(OSError), urllib.request.urlopen(server.url + "/readyz"):
            return
        time.sleep(0.02)
    raise RuntimeError(f"the server was not ready within {READY_WITHIN_S} s")
