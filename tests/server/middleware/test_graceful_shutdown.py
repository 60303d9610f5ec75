"""A server that is told to stop answers whoever was connected by then."""

import http.client
import json
import socket
import threading
import time

import pytest

from server.app import create_app
from server.middleware import graceful_shutdown as stopping
from server.settings import Settings
from tests.server.fakes import picture
from tests.server.listening import listening
from tests.server.test_app import Held

HEAD = b"POST /classify?labels=r HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n"
SOON = 30


@pytest.fixture
def app(detector, encoder):
    return create_app(Settings(decode_threads=1, warm_up="none"), [detector, encoder])


@pytest.fixture
def stop(app, monkeypatch):
    """Serves until called; the clients then have as long as they need."""
    monkeypatch.setattr(stopping, "GRACE_S", SOON)
    with listening(app) as (address, server):

        def tell():
            server.should_exit = True
            give_up = time.monotonic() + SOON
            while not app.state.stopping:
                assert time.monotonic() < give_up
                time.sleep(0.01)

        tell.address = address
        yield tell


def answer_to(client, request):
    client.sendall(request)
    with client.makefile("rb") as file:
        return file.read()  # until the server closes


def test_clients_that_are_connected_and_have_not_asked_yet_are_answered(stop):
    request = HEAD % len(picture()) + picture()
    fresh = [socket.create_connection(stop.address, timeout=SOON) for _ in range(40)]
    stop()
    for client in fresh:
        answer = answer_to(client, request)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in answer.lower()
        client.close()


def test_kept_connection_is_answered_once_more_and_told_that_it_closes(stop):
    client = http.client.HTTPConnection(*stop.address, timeout=SOON)
    client.request("GET", "/livez")
    kept = client.getresponse()
    assert (kept.status, kept.getheader("Connection"), kept.read()) == (200, None, b'{"status":"ok"}')
    stop()
    client.request("GET", "/livez")
    last = client.getresponse()
    assert (last.status, last.getheader("Connection"), last.read()) == (200, "close", b'{"status":"ok"}')
    client.close()


def test_upload_under_way_is_finished_and_answered(stop):
    client = socket.create_connection(stop.address, timeout=SOON)
    client.sendall(HEAD % len(picture()) + picture()[:10])
    stop()
    assert answer_to(client, picture()[10:]).startswith(b"HTTP/1.1 200")
    client.close()


def test_nobody_new_is_let_in(stop):
    kept = socket.create_connection(stop.address, timeout=SOON)  # without any connection it would end at once
    stop()
    give_up = time.monotonic() + SOON
    with pytest.raises(ConnectionRefusedError):  # noqa: PT012
        while time.monotonic() < give_up:
            socket.create_connection(stop.address, timeout=SOON).close()
    kept.close()


def test_connections_that_stay_silent_do_not_hold_the_server(app, monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_S", 0.1)
    with listening(app) as (address, server):
        silent = http.client.HTTPConnection(*address, timeout=SOON)
        silent.request("GET", "/livez")
        silent.getresponse().read()
        server.should_exit = True
        assert silent.sock.recv(1) == b""
        silent.close()


def test_request_that_is_not_done_within_the_bound_is_told_so(app, encoder, monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_S", 0.0)
    held = Held(encoder)
    with listening(app, shutdown_timeout_s=0) as (address, server):
        client = http.client.HTTPConnection(*address, timeout=SOON)
        client.request("POST", "/classify?labels=r", picture(), {"Content-Type": "image/png"})
        assert held.started.wait(SOON)
        server.should_exit = True
        answer = client.getresponse()
        assert (answer.status, answer.getheader("Content-Type")) == (503, "application/problem+json")
        problem = json.loads(answer.read())
        assert problem["type"] == "urn:openset:problem:not-ready"
        assert "is stopping" in problem["detail"]
        held.gate.set()
        client.close()


def test_storm_of_connections_is_answered_or_refused_and_never_cut(app, monkeypatch):
    monkeypatch.setattr(stopping, "GRACE_S", SOON)
    outcomes = []

    def storm(address):
        while "refused" not in outcomes:
            try:
                client = socket.create_connection(address, timeout=SOON)
            except ConnectionRefusedError:
                outcomes.append("refused")
                return
            with client:
                answer = answer_to(client, b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            outcomes.append(answer[:12].decode())

    with listening(app) as (address, server):
        clients = [threading.Thread(target=storm, args=(address,)) for _ in range(4)]
        for client in clients:
            client.start()
        while len(outcomes) < 50:
            time.sleep(0.01)
        server.should_exit = True
        for client in clients:
            client.join()
    assert set(outcomes) == {"HTTP/1.1 200", "refused"}
