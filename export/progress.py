"""What a long command prints while it runs."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """A line per stage, with its seconds; nothing where `quiet`."""

    quiet: bool = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Announce a stage, and at its end how long it took."""
        start = time.monotonic()
        self.say(f"{name} ...")
        yield
        self.say(f"{name}: {time.monotonic() - start:.1f} s")

    def say(self, line: str) -> None:
        """Print one line."""
        if not self.quiet:
            print(line, flush=True)


def peak_memory_bytes() -> int:
    """The most memory this process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB
