"""The end of a server process: bounded by its setting, and every accepted request has an answer."""

import http.client
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest

from .fakes import picture
from .test_serve import ROOT, SOON, ask, ended, free_port, metric, started, until  # noqa: F401 (a fixture)

LONG = 300  # seconds that a run takes; a test that waited for one would fail


@pytest.fixture
def start(tmp_path, free_port):  # noqa: F811
    processes = []

    def begin(**environment):
        processes.append(started(tmp_path, free_port, **environment))
        return processes[-1]

    yield begin
    for process in processes:
        ended(process)


def stopped(server):
    """How long the server took to end, what it logged, and its exit status."""
    begun = time.monotonic()
    server.send_signal(signal.SIGTERM)
    _, log = server.communicate(timeout=120)
    return time.monotonic() - begun, log, server.returncode


def test_run_that_takes_too_long_does_not_keep_the_server_and_who_waits_is_told(start):
    server, answers = start(FAKE_RUN_S=str(LONG), OPENSET_SHUTDOWN_TIMEOUT_S="1"), []
    asking = [threading.Thread(target=lambda: answers.append(ask(server))) for _ in range(3)]
    for thread in asking:
        thread.start()
    until(lambda: metric(server, "openset_inflight_requests") > 3)
    seconds, log, status = stopped(server)
    for thread in asking:
        thread.join()
    assert seconds < LONG / 3
    assert [(answer.status_code, answer.json()["type"]) for answer in answers] == [
        (503, "urn:openset:problem:not-ready")
    ] * 3
    assert "the request did not finish within 1 s" in answers[0].json()["detail"]
    assert "not all was finished within shutdown_timeout_s=1" in log
    assert "Traceback" not in log
    assert status == 0


def test_connection_that_is_kept_alive_does_not_keep_the_server(start):
    server = start(OPENSET_SHUTDOWN_TIMEOUT_S=str(LONG))
    kept = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=SOON)
    kept.request("GET", "/livez")
    assert kept.getresponse().read() == b'{"status":"ok"}'
    seconds, _, status = stopped(server)
    assert (seconds < LONG / 3, status) == (True, 0)
    kept.close()


def test_request_on_a_kept_connection_is_finished(start):
    server = start()
    with httpx.Client(base_url=server.url, timeout=SOON) as client:
        client.get("/livez")
        answers = []
        files = [("image", picture())]
        asking = threading.Thread(
            target=lambda: answers.append(client.post("/detect", files=files, data={"labels": "dog"}))
        )
        asking.start()
        until(lambda: metric(server, "openset_inflight_requests") > 1)
        _, _, status = stopped(server)
        asking.join()
    assert [answer.status_code for answer in answers] == [200]
    assert status == 0


def test_bundles_that_load_do_not_keep_the_server(start):
    server = start(FAKE_LOAD_S=str(LONG), asked="/livez")
    assert httpx.get(server.url + "/readyz").status_code == 503
    seconds, log, status = stopped(server)
    assert seconds < LONG / 3
    assert "stops while its bundles are being loaded" in log
    assert status == 0


@pytest.mark.parametrize("moment_s", [0.0, 0.2, 0.5, 1.0])
def test_server_stopped_while_the_runtime_loads_real_bundles_ends_well(free_port, moment_s):  # noqa: F811
    command = [sys.executable, "-m", "server", "serve", "--port", str(free_port)]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        next(line for line in server.stderr if "Uvicorn running" in line)
        time.sleep(moment_s)
        server.send_signal(signal.SIGTERM)
        _, log = server.communicate(timeout=SOON)
    assert server.returncode == 0, log
    assert "terminate called" not in log


def test_worker_that_dies_turns_livez_red_and_is_logged_and_others_go_on(start):
    server = start(FAKE_RUN="dies")
    assert ask(server).json()["type"] == "urn:openset:problem:worker-stopped"
    for path in ("/livez", "/readyz"):
        answer = httpx.get(server.url + path)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:openset:problem:worker-stopped")
        assert "the worker of fake-detector has died" in answer.json()["detail"]
    files = [("image", picture())]
    other = httpx.post(server.url + "/classify", files=files, data={"labels": "r"}, timeout=SOON)
    assert other.status_code == 200
    _, log, status = stopped(server)
    assert "CRITICAL server.inference.batching: the worker of fake-detector has died" in log
    assert "SystemExit" in log, "with its traceback"
    assert status == 0
