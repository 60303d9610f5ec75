"""The process that fuzzes one target: `python -m tests.fuzz.worker TARGET CORPUS [libFuzzer options]`."""

import logging
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["server", "models.data", "PIL", "python_multipart", "tests.fuzz.targets"]):
    from .targets import PLANTED, TARGETS


def main() -> None:
    """Write the seeds into the corpus and fuzz until libFuzzer ends."""
    name, corpus, *options = sys.argv[1:]
    logging.disable(logging.CRITICAL)  # requests are logged otherwise
    target = (TARGETS | PLANTED)[name]()
    for seed, data in target.seeds().items():
        (Path(corpus) / f"seed-{seed}").write_bytes(data)
    atheris.Setup([sys.argv[0], corpus, *options], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
