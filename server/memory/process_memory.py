"""How much memory this process holds, as Linux tells; None elsewhere, and where a sandbox hides it."""

import ctypes
import re
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from server.memory.cgroup import text

T = TypeVar("T")


def resident_bytes(*, proc: Path = Path("/proc")) -> int | None:
    """The process's memory now, in bytes."""
    return _field("VmRSS", proc)


def with_peak(run: Callable[[], T], *, proc: Path = Path("/proc")) -> tuple[T, int | None]:
    """What `run` returns, and by how many bytes at most the process's memory had grown meanwhile, for any thread."""
    return_free_memory()  # it would hide as much of the growth
    before = _field("VmRSS", proc)
    try:
        (proc / "self" / "clear_refs").write_text("5", encoding="utf-8")  # the peak starts from here
    except OSError:
        before = None
    result = run()
    peak = _field("VmHWM", proc)
    return result, None if before is None or peak is None else max(0, peak - before)


def _field(name: str, proc: Path) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text(proc / "self" / "status"), re.M)
    return int(found[1]) * 1024 if found else None


def return_free_memory() -> None:
    """Give back what the C heap keeps for later, where that can be asked for: glibc alone has it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
