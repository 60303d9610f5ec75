"""Rate of `openset label` beside a client that asks a server for one picture after the other.

    python -m tests.benchmarks.label --pictures 400

The two take turns, on the same pictures and cores; the exit status is 1 if labelling is not `FASTER` times as fast in
the median. Loading of the models is left out of both, as a job of any length pays for it once.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from openset import Client
from openset.answerer import open_answerer
from openset.label.detector import ModelDetector
from openset.label.job import label_all
from openset.label.results_log import ResultsLog
from openset.sources import Sources, find_sources
from tests.benchmarks.live_server import ROOT, LiveServer, serving

LABELS = ["dog", "bicycle", "banana"]
PARALLEL = 8  # the command's default
FASTER = 1.1


def rates(server: LiveServer, pictures: Sources, scratch: Path, *, rounds: int) -> list[tuple[float, float]]:
    """Pictures a second of the client loop and of labelling, in each round."""
    found = []
    with Client(server.url) as client:
        here = argparse.Namespace(url=None, bundle=None, model=None, allow_uncertified=False)
        model = open_answerer(here, "detect")
        detector = ModelDetector(model, {"labels": LABELS})
        for number in range(rounds):
            started = time.perf_counter()
            for picture in pictures.files:
                client.detect(picture.path, labels=LABELS)
            looped = time.perf_counter() - started
            started = time.perf_counter()
            with ResultsLog(scratch / f"out-{number}", {}) as log:
                results = label_all(
                    pictures.files, detector, log, parallel=PARALLEL, frames=scratch / "frames", every_s=1.0
                )
                assert sum(1 for _ in results) == len(pictures.files)
            labelled = time.perf_counter() - started
            found.append((len(pictures.files) / looped, len(pictures.files) / labelled))
        model.close()
    return found


def main() -> int:
    """Print the rates; 1 if labelling is too slow."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.label", description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "pictures").mkdir()
        for number in range(args.pictures):
            shutil.copy(ROOT / "server/examples/scene.jpg", scratch / "pictures" / f"{number}.jpg")
        with serving(scratch, "--log-level", "warning") as server:
            found = rates(server, find_sources([str(scratch / "pictures")]), scratch, rounds=args.rounds)
    ratios = [labelled / looped for looped, labelled in found]
    for (looped, labelled), ratio in zip(found, ratios, strict=True):
        print(f"client loop {looped:.1f} pictures/s, openset label {labelled:.1f} pictures/s: {ratio:.2f} times")
    print(f"median {statistics.median(ratios):.2f} times, at least {FASTER} is wanted")
    return int(statistics.median(ratios) < FASTER)


if __name__ == "__main__":
    sys.exit(main())
