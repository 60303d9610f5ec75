"""Decoder processes: started by one process, and never left behind."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from server.inference.decoder_forks import DecoderEnded, DecoderForks
from server.inference.images import USUAL_BYTES, Work
from tests.server.fakes import picture

ROOT = Path(__file__).parents[3]
SOON = 20
# A program that decodes, and then waits to be ended.
PROGRAM = """
import time
from server.inference.decoder_forks import DecoderForks
from server.inference.images import Work
from tests.server.slow_pictures import many_scans

forks = DecoderForks()
decoders = [forks.fork() for _ in range(2)]
decoders[0].ask(Work(b"x", "x", 1), 0)
print(forks._process.pid, flush=True)
try:
    decoders[0].ask(Work(many_scans(), "x", 10**9, marks=[]), 2**30)
finally:
    time.sleep(60)
"""


@pytest.fixture
def forks():
    forks = DecoderForks()
    yield forks
    forks.close()


def drawing():
    return Work(picture(), "x", 10_000)


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid):
    """True for a process that has not ended; one that nobody waits for has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition):
    give_up = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < give_up, "it did not come about"
        time.sleep(0.02)


def test_decoder_answers_again_and_again(forks):
    decoder = forks.fork()
    for _ in range(3):
        answer, content = decoder.ask(drawing(), USUAL_BYTES)
        assert answer == {}
        assert content.startswith(b"\x89PNG")
    assert decoder.end() == signal.SIGKILL


def test_decoder_is_ended_before_the_server_where_memory_is_short(forks):
    forks.fork().ask(drawing(), USUAL_BYTES)
    (decoder,) = children(forks._process.pid)
    assert int(Path(f"/proc/{decoder}/oom_score_adj").read_text()) == 1000


def test_killed_decoder_tells_its_signal(forks):
    decoder, other = forks.fork(), forks.fork()
    decoder.kill()
    until(lambda: sum(map(alive, children(forks._process.pid))) == 1)
    with pytest.raises(DecoderEnded, match="SIGKILL") as ended:
        decoder.ask(drawing(), USUAL_BYTES)
    assert ended.value.number == signal.SIGKILL
    decoder.kill()  # nothing, now that it has ended
    assert other.ask(drawing(), USUAL_BYTES)[0] == {}


def test_closing_ends_all(forks):
    forks.fork().ask(drawing(), USUAL_BYTES)
    process = forks._process
    pids = children(process.pid)
    forks.close()
    assert process.returncode == 0
    assert len(pids) == 1
    until(lambda: not any(map(alive, pids)))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_program_that_is_ended_leaves_no_process(number):
    program = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    forking = int(program.stdout.readline())
    until(lambda: len(children(forking)) == 2)
    pids = [forking, *children(forking)]
    if number != signal.SIGKILL:
        for pid in pids:  # as a terminal or a supervisor signals a whole group
            os.kill(pid, number)
        time.sleep(0.1)
        assert all(map(alive, pids)), "they end with the server, not before it"
    program.kill()
    program.communicate()
    until(lambda: not any(map(alive, pids)))


def test_processor_time_is_that_of_all_decoders_also_of_those_that_have_ended(forks):
    assert forks.cpu_seconds() == 0
    decoder = forks.fork()
    started = forks.cpu_seconds()
    for _ in range(40):
        decoder.ask(Work(picture(size=(1500, 1500)), "x", 10**7, marks=[]), USUAL_BYTES)
    worked = forks.cpu_seconds()
    assert worked > started
    decoder.end()
    assert forks.cpu_seconds() >= worked - 0.011, "but for a tick that is rounded"
