"""Memory and CPUs of this process: its limits by affinity and cgroup, and what it holds, as Linux reports them.

The figures of the host mislead inside a container. None where Linux does not report one, or a sandbox hides it.
"""

import ctypes
import math
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")
# Version 1 writes the largest multiple of a page below 2**63 where there is no limit.
_NO_LIMIT = 2**62
_MAX_OPEN_FILES = 65_536


def memory_limit(*, proc: Path = _PROC, cgroup: Path = _CGROUP) -> int | None:
    """Tightest memory limit of this process's cgroup and its parents, in bytes; None without one."""
    limits = []
    for version, folder in _cgroups("memory", proc, cgroup):
        limit = _text(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")).strip()
        if limit.isdigit() and int(limit) < _NO_LIMIT:
            limits.append(int(limit))
    return min(limits, default=None)


def available_memory(*, proc: Path = _PROC) -> int | None:
    """Memory of the machine that processes can take without swapping, in bytes."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", _text(proc / "meminfo"), re.M)
    return int(found[1]) * 1024 if found else None


def machine_bytes() -> int:
    """Memory of the machine, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_cpus(*, proc: Path = _PROC, cgroup: Path = _CGROUP) -> int:
    """CPUs in this process's affinity, or its cgroup quota where that is smaller; at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(proc=proc, cgroup=cgroup)
    return max(1, min(affinity, math.ceil(quota)) if quota else affinity)


def cpu_quota(*, proc: Path = _PROC, cgroup: Path = _CGROUP) -> float | None:
    """Tightest quota of this process's cgroup and its parents, in CPUs; None without one."""
    quotas = []
    for version, folder in _cgroups("cpu", proc, cgroup):
        if version == 2:  # "quota period" in microseconds, or "max period"
            fields = _text(folder / "cpu.max").split()
        else:  # two files; a quota of -1 is none
            fields = [_text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
        if len(fields) == 2 and all(field.isdigit() for field in fields) and int(fields[1]):
            quotas.append(int(fields[0]) / int(fields[1]))
    return min(quotas, default=None)


def open_files_limit() -> int:
    """File descriptors that this process may have, once its soft limit is raised as far as it may, within reason."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    return wanted if soft == resource.RLIM_INFINITY else soft


def resident_bytes(*, proc: Path = _PROC) -> int | None:
    """Memory of the process now, in bytes."""
    return _status("VmRSS", proc)


def with_peak(run: Callable[[], T], *, proc: Path = _PROC) -> tuple[T, int | None]:
    """Result of `run`, and the most bytes that the process had grown by meanwhile, whichever thread took them."""
    return_free_memory()  # it would hide as much of the growth
    before = _status("VmRSS", proc)
    try:
        (proc / "self" / "clear_refs").write_text("5", encoding="utf-8")  # resets the peak
    except OSError:
        before = None
    result = run()
    peak = _status("VmHWM", proc)
    return result, None if before is None or peak is None else max(0, peak - before)


def return_free_memory() -> None:
    """Give memory that the C heap keeps for later back to the system; glibc only."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def end_first() -> None:
    """Let the system end this process before others where memory is short; where it cannot be told so, nothing."""
    with suppress(OSError):
        (_PROC / "self" / "oom_score_adj").write_text("1000")


def _status(name: str, proc: Path) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB$", _text(proc / "self" / "status"), re.M)
    return int(found[1]) * 1024 if found else None


def _cgroups(controller: str, proc: Path, cgroup: Path) -> Iterator[tuple[int, Path]]:
    """Version and folder of this process's cgroup and of each of its parents, for one controller."""
    for line in _text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            below = Path(*parts[:depth])
            if not controllers:  # version 2: one tree for all
                yield 2, cgroup / below
            elif controller in controllers.split(","):
                tree = controllers if (cgroup / controllers).is_dir() else controller
                yield 1, cgroup / tree / below


def _text(path: Path) -> str:
    """Text of a file; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
