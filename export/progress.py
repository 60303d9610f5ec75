"""Progress lines of a long command, and its peak memory."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Prints a line for each stage with its duration; nothing if `quiet`."""

    quiet: bool = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage, and at its end its duration."""
        start = time.monotonic()
        self.say(f"{name} ...")
        yield
        self.say(f"{name}: {time.monotonic() - start:.1f} s")

    def say(self, line: str) -> None:
        """Print one line."""
        if not self.quiet:
            print(line, flush=True)


def peak_memory_bytes() -> int:
    """Peak resident memory of this process."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
