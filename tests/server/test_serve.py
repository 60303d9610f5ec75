"""`openset serve` as a process: start to ready, answers over a socket, and a stop that loses nothing."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from server.__main__ import main

from .fakes import FakeEncoder, picture

ROOT = Path(__file__).parents[2]
SOON = 30


@pytest.fixture
def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class ServerProcess(subprocess.Popen):
    url: str


def started(folder, port, *, asked="/readyz", **environment):
    process = ServerProcess(
        [sys.executable, "-m", "tests.server.serve_fakes", str(folder), str(port)],
        cwd=ROOT,
        env=os.environ | environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.url = f"http://127.0.0.1:{port}"
    give_up = time.monotonic() + SOON
    while time.monotonic() < give_up and process.poll() is None:
        try:
            if httpx.get(process.url + asked).status_code == 200:
                break
        except httpx.TransportError:
            time.sleep(0.05)
    return process


def ended(process):
    if process.poll() is None:
        process.kill()
    process.communicate()


@pytest.fixture
def server(tmp_path, free_port):
    process = started(tmp_path, free_port)
    yield process
    ended(process)


def ask(server):
    files = [("image", ("a.png", picture()))]
    return httpx.post(server.url + "/detect", files=files, data={"labels": "zebra"}, timeout=SOON)


def until(condition):
    give_up = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.01)


def metric(server, name):
    lines = httpx.get(server.url + "/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_server_answers_over_a_socket(server):
    assert ask(server).json()["results"][0]["detections"][0]["label"] == "zebra"


def test_request_whose_client_hangs_up_is_dropped(server):
    first = threading.Thread(target=ask, args=(server,))
    first.start()
    until(lambda: metric(server, "openset_inflight_requests") > 1)
    request = httpx.Request("POST", server.url + "/detect", files=[("image", picture())], data={"labels": "dog"})
    with socket.create_connection((request.url.host, request.url.port)) as connection:
        headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        connection.sendall(f"POST /detect HTTP/1.1\r\n{headers}\r\n".encode() + request.read())
        time.sleep(0.05)
    until(lambda: metric(server, "openset_cancelled_total") == 1)
    first.join()


def test_terminated_server_finishes_accepted_requests_and_logs_no_label(server):
    answers = []
    asking = [threading.Thread(target=lambda: answers.append(ask(server))) for _ in range(3)]
    for thread in asking:
        thread.start()
    until(lambda: metric(server, "openset_inflight_requests") > 3)  # the three, and this one
    server.send_signal(signal.SIGTERM)
    for thread in asking:
        thread.join(SOON)
    _, errors = server.communicate(timeout=SOON)
    assert [answer.status_code for answer in answers] == [200] * 3
    assert server.returncode == 0
    assert "zebra" not in errors


@pytest.mark.parametrize(("trusted", "client"), [("", "127.0.0.1"), ("127.0.0.0/8", "203.0.113.7")])
def test_address_that_a_proxy_tells_counts_only_where_the_proxy_is_trusted(tmp_path, free_port, trusted, client):
    process = started(tmp_path, free_port, OPENSET_TRUSTED_PROXIES=trusted, OPENSET_LOG_FORMAT="json")
    try:
        httpx.get(process.url + "/models", headers={"X-Forwarded-For": "203.0.113.7"})
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=SOON)
    finally:
        ended(process)
    lines = [json.loads(line) for line in errors.splitlines()]
    assert [line["client"] for line in lines if line.get("endpoint") == "/models"] == [client]


def test_bundle_that_is_none_ends_the_server_with_one_sentence(tmp_path, free_port):
    done = subprocess.run(
        [sys.executable, "-m", "server", "serve", "--port", str(free_port), "--bundle", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SOON,
    )
    assert done.returncode == 2
    assert f"openset serve: {tmp_path} is no bundle: it has no manifest.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_port_in_use_ends_the_server_with_the_next_step(server, free_port):
    done = subprocess.run(
        [sys.executable, "-m", "server", "serve", "--warm-up", "none", "--port", str(free_port)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SOON,
    )
    assert done.returncode == 2
    assert f"openset serve: cannot listen on 127.0.0.1, port {free_port}: give another --port" in done.stderr
    assert "Traceback" not in done.stderr


def test_wrong_setting_ends_the_server_with_one_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "server", "serve", "--port", "99999"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("openset serve: --port='99999' is refused: input should be less than or equal")
    assert done.stderr.count("\n") == 1


def test_server_that_has_ended_leaves_a_process_that_goes_on_alone(monkeypatch, tmp_path):
    ended = []
    monkeypatch.setattr("server.app.OVERTIME_S", 0)
    monkeypatch.setattr("server.app.end_process", ended.append)
    monkeypatch.setattr("server.predictor.open_bundles", lambda settings, task: [FakeEncoder(tmp_path)])
    command = ["serve", "--port", "0", "--memory-limit-bytes", "1000", "--shutdown-timeout-s", "2"]
    assert main(command) == 2
    time.sleep(2.5)
    assert ended == []
