"""Output of the commands in any encoding, and into pipes and disks that take no more."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PHOTO = "server/examples/dog.jpg"
LABELS = ["собака", "犬", "🐕", "café", "dog"]


def openset(*words, stdout=subprocess.PIPE, **environment):
    command = [sys.executable, "-m", "server", *words]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, stdout=stdout, stderr=subprocess.PIPE)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp1252:strict", "latin-1", "koi8-r", "utf-8", "utf-16"])
def test_answer_is_written_in_any_encoding_and_is_still_json(encoding):
    done = openset("classify", PHOTO, "--labels", ",".join(LABELS), "--json", PYTHONIOENCODING=encoding)
    assert (done.returncode, done.stderr) == (0, b"")
    answer = json.loads(done.stdout.decode(encoding.removesuffix(":strict")))
    assert sorted(score["label"] for score in answer["results"][0]["scores"]) == sorted(LABELS)


@pytest.mark.parametrize(
    "environment",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX"},
        {"PYTHONIOENCODING": "ascii:strict"},
    ],
    ids=["C", "POSIX", "ascii"],
)
def test_error_is_written_in_any_locale(environment):
    done = openset("detect", "нет.jpg", "--labels", "犬", **environment)
    assert done.returncode == 2
    assert done.stderr.startswith(b"openset detect: ")
    assert b"Traceback" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_full_disk_is_one_sentence():
    with open("/dev/full", "wb") as full:
        done = openset("pull", stdout=full)
    assert done.returncode == 1
    assert done.stderr == b"openset pull: the output cannot be written: No space left on device\n"


def test_reader_that_has_gone_is_no_error():
    reading, writing = os.pipe()
    os.close(reading)
    done = openset("pull", stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_closed_output_is_no_error():
    done = subprocess.run(f"{sys.executable} -m server pull >&-", cwd=ROOT, shell=True, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (0, b"")
