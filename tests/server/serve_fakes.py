"""A server process with fake bundles, for tests that need a real socket: `python serve_fakes.py FOLDER PORT`.

A detector's run takes FAKE_RUN_S seconds, loading FAKE_LOAD_S; with FAKE_RUN=dies a run ends its worker instead.
"""

import os
import sys
import time
from pathlib import Path
from unittest import mock

from server.__main__ import main
from tests.server.fakes import FakeDetector, FakeEncoder


def pause():
    time.sleep(float(os.environ.get("FAKE_RUN_S", "1")))


def die():
    raise SystemExit


def fakes(settings, *, task=None):
    time.sleep(float(os.environ.get("FAKE_LOAD_S", "0")))
    detector = FakeDetector(Path(sys.argv[1]))
    detector.before_run = die if os.environ.get("FAKE_RUN") == "dies" else pause
    return [detector, FakeEncoder(Path(sys.argv[1]))]


if __name__ == "__main__":
    with mock.patch("server.predictor.open_bundles", fakes):
        sys.exit(main(["serve", "--warm-up", "none", "--port", sys.argv[2]]))
