"""A server process with fake bundles, for tests that need a real socket: `python serve_fakes.py FOLDER PORT`."""

import sys
import time
from pathlib import Path

from server import app
from server.__main__ import main
from tests.server.fakes import FakeDetector, FakeEncoder


def fakes(settings):
    detector = FakeDetector(Path(sys.argv[1]))
    detector.before_run = lambda: time.sleep(1)
    return [detector, FakeEncoder(Path(sys.argv[1]))]


if __name__ == "__main__":
    app.open_bundles = fakes
    sys.exit(main(["serve", "--no-warm-up", "--port", sys.argv[2]]))
