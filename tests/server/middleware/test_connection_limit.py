"""Connections: bounded by the process's descriptors, so that a flood of one network leaves an answer for the others."""

import os
import resource
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.memory.process_resources import open_files_limit
from server.middleware.connection_limit import ConnectionLimit
from tests.server.test_serve import ROOT, SOON, ended, free_port  # noqa: F401 (a fixture)


def asked(port, source):
    """The start of the answer to a request from an address of this machine, or "" for a clean close."""
    with socket.create_connection(("127.0.0.1", port), timeout=SOON, source_address=(source, 0)) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return connection.recv(100).decode()


@given(st.integers(2, 100_000), st.lists(st.sampled_from("abcde"), max_size=200))
def test_network_leaves_as_many_free_as_it_has(limit, networks):
    connections, held = ConnectionLimit(limit), []
    for network in networks:
        if connections.admit(network):
            held.append(network)
        assert held.count(network) <= max(1, connections.most / 2)
    assert len(held) <= connections.most < limit
    assert connections.most + connections.backlog < limit or limit < 4
    for network in held:
        connections.release(network)
    assert connections.admit("f") or connections.most < 1


def test_proxy_speaks_for_many_and_counts_only_in_all():
    connections = ConnectionLimit(64, proxies=["10.0.0.0/8"])
    assert connections.network("10.1.2.3") == connections.network("") == ""
    assert connections.network("192.0.2.7") == "192.0.2.0/24"
    assert sum(connections.admit("") for _ in range(100)) == connections.most


def test_soft_limit_of_descriptors_is_raised_to_the_hard_one():
    code = "from server.memory.process_resources import open_files_limit as f; print(f(), f())"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, 500)),
    )
    assert ran.stdout.split() == ["500", "500"]
    assert open_files_limit() >= 64


@pytest.mark.skipif(sys.platform != "linux", reason="addresses of the whole 127.0.0.0/8")
def test_flood_of_connections_leaves_an_answer_for_others_and_a_short_log(tmp_path, free_port):  # noqa: F811
    log = (tmp_path / "log").open("w+")
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.server.serve_fakes", str(tmp_path), str(free_port)],
        cwd=ROOT,
        stderr=log,
        env=os.environ | {"FAKE_RUN_S": "0"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200)),
    )
    try:
        give_up = time.monotonic() + SOON
        while time.monotonic() < give_up:
            try:
                if "200" in asked(free_port, "127.0.0.1"):
                    break
            except OSError:
                time.sleep(0.1)
        quiet = time.monotonic()
        assert "200" in asked(free_port, "127.0.0.1")
        quiet = time.monotonic() - quiet
        with ExitStack() as held:
            for _ in range(400):
                connection = held.enter_context(socket.create_connection(("127.0.0.1", free_port), timeout=SOON))
            waited = []
            for number in range(20):
                started = time.monotonic()
                assert asked(free_port, f"127.0.{number + 1}.1").startswith("HTTP/1.1 200")
                waited.append(time.monotonic() - started)
            answer = asked(free_port, "127.0.0.2")
            assert answer.startswith("HTTP/1.1 429"), "of the network that holds them"
            connection.settimeout(SOON)
            assert connection.recv(100).startswith(b"HTTP/1.1 429"), "told at once"
        assert sorted(waited)[10] < 1 + 20 * quiet
        while "200" not in asked(free_port, "127.0.0.1"):
            assert time.monotonic() < give_up + SOON
            time.sleep(0.1)
        log.seek(0)
        written = log.read()
        assert len(written) < 20_000
        assert "Too many open files" not in written, "some are left for files, also while bundles are loaded"
    finally:
        ended(process)
        log.close()
