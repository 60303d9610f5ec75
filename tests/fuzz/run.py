"""Coverage-guided fuzzing: `python -m tests.fuzz.run [TARGET ...] [--seconds 60] [--keep FOLDER]`.

Each target runs in a process of its own under libFuzzer (atheris), seeded by `seeds.py`. A crash is written to the
folder as TARGET-crash-*, its traceback printed, and the exit status is 1.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from .targets import TARGETS

MAX_BYTES, MAX_MIB, SLOWEST_S = 2**16, 3072, 20


def main(argv: list[str] | None = None) -> int:
    """Fuzz the targets one after the other; 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--keep", type=Path, help="folder for the corpus that is found and for crashes")
    args = parser.parse_args(argv)
    if unknown := set(args.targets) - set(TARGETS):
        parser.error(f"no target is called {', '.join(sorted(unknown))}: there are {', '.join(TARGETS)}")
    folder = args.keep or Path(tempfile.mkdtemp(prefix="openset-fuzz-"))
    failed = [name for name in args.targets or TARGETS if not fuzz(name, folder, seconds=args.seconds)]
    print(f"failed: {', '.join(failed)}; inputs in {folder}" if failed else "no target failed")
    return bool(failed)


def fuzz(name: str, folder: Path, *, seconds: int) -> bool:
    """Whether `seconds` of fuzzing of a target found nothing wrong."""
    corpus = folder / name
    corpus.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable, "-m", "tests.fuzz.worker", name, str(corpus), f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}", f"-rss_limit_mb={MAX_MIB}", f"-timeout={SLOWEST_S}",
        f"-artifact_prefix={folder / name}-", "-print_final_stats=1",
    ]  # fmt: skip
    # By a shell: a process counts the peak memory of its parent as its own, and a test run's may be above the limit.
    ended = subprocess.run(["sh", "-c", '"$@"; exit $?', "sh", *command], capture_output=True, text=True)
    runs = next(
        (line.rpartition(":")[2].strip() for line in ended.stderr.splitlines() if "executed_units" in line), "0"
    )
    print(f"{name}: {runs} inputs in {seconds} s, {'well' if ended.returncode == 0 else 'FAILED'}", flush=True)
    if ended.returncode:
        print(_shown(ended.stdout), _shown(ended.stderr), sep="\n", flush=True)
    return ended.returncode == 0


def _shown(output: str) -> str:
    """The end of a worker's output without its progress."""
    lines = [line for line in output.splitlines() if not line.startswith(("INFO:", "#", "WARNING: Failed"))]
    return "\n".join(lines)[-6000:]


if __name__ == "__main__":
    sys.exit(main())
