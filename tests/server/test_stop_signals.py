"""SIGTERM and Ctrl-C end `openset serve` with status 0 at any moment: while it starts, loads, serves, hangs or ends."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from .test_serve import ROOT, SOON, ask, ended, free_port, metric, started, until  # noqa: F401 (a fixture)

BOTH = [signal.SIGTERM, signal.SIGINT]
HANGS = 300  # seconds that a hung run or load takes


def handles(pid, number):
    """True once the process has a handler for the signal."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


def end_of(process, *signals, pause_s):
    """Exit status and log after the signals, sent with pauses between them."""
    for position, number in enumerate(signals):
        if position:
            time.sleep(pause_s)
        if process.poll() is None:
            process.send_signal(number)
    _, log = process.communicate(timeout=SOON)
    return process.returncode, log


def starting(port):
    """A server whose first line has run."""
    command = [sys.executable, "-m", "server", "serve", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    until(lambda: handles(process.pid, signal.SIGTERM) or process.poll() is not None)
    return process


def ask_in_vain(server):
    with pytest.raises(httpx.TransportError):
        ask(server)


def assert_ended_well(status, log):
    assert status == 0, log
    for fault in ("Traceback", "terminate called", "KeyboardInterrupt", "core dumped"):
        assert fault not in log


@pytest.mark.parametrize("number", BOTH)
@pytest.mark.parametrize("moment_s", [0.0, 0.15, 0.6])
def test_server_stopped_while_it_imports_ends_well(free_port, number, moment_s):  # noqa: F811
    process = starting(free_port)
    time.sleep(moment_s)
    assert_ended_well(*end_of(process, number, pause_s=0))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(60))
def test_server_stopped_at_a_random_moment_ends_well(free_port, seed):  # noqa: F811
    chance = random.Random(seed)
    process = starting(free_port)
    time.sleep(chance.uniform(0, 4))
    signals = chance.choices(BOTH, k=chance.choice([1, 2, 3]))
    assert_ended_well(*end_of(process, *signals, pause_s=chance.choice([0.0, 0.05, 1.2])))


@pytest.mark.parametrize("number", BOTH)
def test_second_signal_ends_a_server_whose_run_hangs(tmp_path, free_port, number):  # noqa: F811
    server = started(tmp_path, free_port, FAKE_RUN_S=str(HANGS), OPENSET_SHUTDOWN_TIMEOUT_S=str(HANGS))
    try:
        asking = threading.Thread(target=ask_in_vain, args=(server,))
        asking.start()
        until(lambda: metric(server, "openset_inflight_requests") > 1)
        assert_ended_well(*end_of(server, number, number, pause_s=1.5))
        asking.join()
    finally:
        ended(server)


def test_two_signals_at_once_are_one_and_cut_no_answer_short(tmp_path, free_port):  # noqa: F811
    server, answers = started(tmp_path, free_port), []
    try:
        asking = threading.Thread(target=lambda: answers.append(ask(server)))
        asking.start()
        until(lambda: metric(server, "openset_inflight_requests") > 1)
        assert_ended_well(*end_of(server, *BOTH, pause_s=0.05))
        asking.join()
    finally:
        ended(server)
    assert [answer.status_code for answer in answers] == [200]


def test_server_whose_bundles_never_load_ends_well(tmp_path, free_port):  # noqa: F811
    server = started(tmp_path, free_port, FAKE_LOAD_S=str(HANGS), asked="/livez")
    assert_ended_well(*end_of(server, signal.SIGINT, pause_s=0))


def test_other_commands_interrupted_say_so_in_one_line():
    code = (
        "import server.__main__ as door\n"
        "def interrupted(words): raise KeyboardInterrupt\n"
        "door._run_command = interrupted\n"
        "raise SystemExit(door.main(['detect']))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "openset detect: interrupted\n")
