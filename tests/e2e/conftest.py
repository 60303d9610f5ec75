"""One `openset serve` with the bundled models for the tests of a module, and what to ask it."""

import shutil
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


class ServerClient(httpx.Client):
    """A client of a server process, with its process id, and its log lines where a test reads them."""

    pid: int
    log: list[str]


@pytest.fixture(scope="module")
def server():
    port = free_port()
    command = [sys.executable, "-m", "server", "serve", "--port", str(port), "--log-level", "warning"]
    with subprocess.Popen(command, cwd=ROOT) as process, ServerClient(base_url=f"http://127.0.0.1:{port}") as client:
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


CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# As root and in a container it has no sandbox and little shared memory; and it is not to look for anything elsewhere.
FLAGS = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
FLAGS += ["--use-fake-device-for-media-stream"]  # a camera that sees a test picture
PATIENCE_MS = 60_000


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium. Of a module, since in its thread nothing else may run an event loop meanwhile."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright for Python is not installed")
    path = next(filter(None, map(shutil.which, CHROMIUMS)), None)
    if path is None:
        pytest.skip(f"there is no Chromium on this machine (none of {', '.join(CHROMIUMS)})")
    sync_api.expect.set_options(timeout=PATIENCE_MS)
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def opened(browser, server):
    """Opens the server's page in a window of its own; it may ask nobody else, and its scripts may not fail."""
    contexts, faults = [], []

    def open_(*, server=server, routes=(), width=1280, height=900, wait_until="load", **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        context.set_default_timeout(PATIENCE_MS)
        page = context.new_page()
        page.asked = []
        base = str(server.base_url)
        for path, handler in routes:
            page.route(f"{base}/{path}", handler)

        def requested(request):
            page.asked.append((request.method, request.url.removeprefix(base)))
            if not request.url.startswith((base, "blob:", "data:")):
                faults.append(f"asked {request.url}")

        page.on("request", requested)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on("console", lambda said: faults.append(said.text) if "Security Policy" in said.text else None)
        page.goto(base, wait_until=wait_until)
        page.bring_to_front()  # the clipboard and the focus are the foremost window's
        return page

    yield open_
    for context in contexts:
        context.close()
    assert faults == []
