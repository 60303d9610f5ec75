"""Lines that commands print: the progress of a long one, its peak memory, a bundle's parts in int8."""

import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from server.contract.manifest import Manifest


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


def in_int8(manifest: Manifest) -> str:
    """An addition to what is told of a bundle: its parts that CPUs run in int8; empty where all are in float32."""
    return f"; int8 on CPUs: {', '.join(manifest.int8_parts)}" if manifest.int8_parts else ""
