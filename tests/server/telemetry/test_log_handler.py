"""Log lines to standard error: a full disk, a stuck reader or a flood of one line costs the server nothing."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from server.telemetry.log_handler import BURST, RepeatFilter, StderrHandler, cut

SOON = 10


@pytest.fixture
def logger():
    made = logging.Logger("server.x")
    yield made
    made.handlers.clear()


def pipe(logger):
    reading, writing = os.pipe()
    logger.addHandler(StderrHandler(os.fdopen(writing, "w")))
    return reading


def test_reader_that_stops_blocks_nobody_and_is_told_what_it_missed(logger):
    reading = pipe(logger)
    lines = ["a line of " + "x" * 100] * 5000
    writing = threading.Thread(target=lambda: [logger.error(line) for line in lines], daemon=True)
    writing.start()
    writing.join(SOON)
    assert not writing.is_alive()
    os.set_blocking(reading, False)
    held = os.read(reading, 2**20)
    logger.error("again")
    assert held.startswith(b"a line of x")
    lost = 5000 - held.count(b"a line of")
    assert os.read(reading, 2**20) == b"(%d lines were lost: they could not be written)\nagain\n" % lost
    os.close(reading)


@pytest.mark.parametrize("fault", ["closed pipe", "full disk", "closed descriptor"])
def test_line_that_cannot_be_written_raises_nothing(logger, fault):
    if fault == "closed pipe":
        os.close(pipe(logger))
    elif fault == "full disk":
        logger.addHandler(StderrHandler(os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")))
    else:
        with Path(os.devnull).open("w") as stream:
            logger.addHandler(StderrHandler(stream))
    for _ in range(3):
        logger.error("line")
    assert logger.handlers[0].lost == 3
    logger.error("%d", "no number")


def test_server_whose_log_is_on_a_full_disk_answers():
    code = """
from fastapi.testclient import TestClient
from server.app import create_app
from server.settings import Settings
from server.telemetry import logs

logs.configure(Settings())
with TestClient(create_app(Settings(), [])) as client:
    print([int(client.get(path).status_code) for path in ("/livez", "/models", "/x")])
"""
    with Path("/dev/full").open("w") as full:
        ran = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, timeout=60)
    assert ran.stdout.strip() == b"[200, 200, 404]"


def test_line_that_repeats_is_told_once_a_period_with_its_count(logger, capsys, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("server.telemetry.log_handler.time.monotonic", lambda: now[0])
    handler = StderrHandler(sys.stderr)
    handler.addFilter(RepeatFilter(exempt="server.access"))
    logger.addHandler(handler)
    for number in range(1000):
        logger.warning("Invalid request %d", number)
        logger.warning("another")
    now[0] += 11
    logger.warning("Invalid request %d", 7)
    written = capsys.readouterr().err.splitlines()
    assert len(written) == 2 * BURST + 1
    assert written[-1] == f"Invalid request 7 ({1000 - BURST} more like this were left out)"


def test_requests_own_lines_are_all_kept_and_kinds_are_bounded(monkeypatch):
    passes = RepeatFilter(exempt="server.access").filter
    record = logging.LogRecord("server.access", logging.INFO, "", 0, "%s", ("text",), None)
    assert all(passes(record) for _ in range(1000))
    bounded = RepeatFilter(exempt="")
    for number in range(5000):
        bounded.filter(logging.LogRecord("x", logging.INFO, "", 0, f"made up {number}", None, None))
    assert len(bounded._kinds) <= 1000


@pytest.mark.parametrize(
    ("keep_end", "text"), [(False, "abc… (3 characters left out)"), (True, "… (3 characters left out)\ndef")]
)
def test_long_text_is_cut(keep_end, text):
    assert cut("abcdef", 3, keep_end=keep_end) == text
    assert cut("abcdef", 6, keep_end=keep_end) == "abcdef"
