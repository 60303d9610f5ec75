"""Progress lines of long commands."""

import re

from export.progress import Progress, peak_memory_bytes


def test_stage_is_announced_and_timed(capsys):
    with Progress().stage("trace detector"):
        pass
    first, second = capsys.readouterr().out.splitlines()
    assert first == "trace detector ..."
    assert re.fullmatch(r"trace detector: \d+\.\d s", second)


def test_quiet_progress_prints_nothing(capsys):
    progress = Progress(quiet=True)
    with progress.stage("trace detector"):
        progress.say("172 M parameters")
    assert capsys.readouterr().out == ""


def test_peak_memory_is_in_bytes():
    assert 2**24 < peak_memory_bytes() < 2**42
