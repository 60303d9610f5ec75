"""How many processors this process may really use: the host's count misleads inside a container."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

from server.memory.cgroup import folders, text


def available_processors(*, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """The smaller of the processors in this process's affinity and its cgroup quota, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(proc=proc, cgroup=cgroup)
    return max(1, min(affinity, math.ceil(quota)) if quota else affinity)


def cgroup_quota(*, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> float | None:
    """The tightest processor quota of this process's cgroup and its parents, in processors; None without one."""
    return min(_quotas(proc, cgroup), default=None)


def _quotas(proc: Path, cgroup: Path) -> Iterator[float]:
    for version, folder in folders("cpu", proc=proc, cgroup=cgroup):
        if version == 2:  # "quota period" in microseconds, or "max period"
            yield from _ratio(text(folder / "cpu.max").split())
        else:  # two files; a quota of -1 is none
            yield from _ratio([text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")])


def _ratio(fields: list[str]) -> Iterator[float]:
    if len(fields) == 2 and all(field.isdigit() for field in fields) and int(fields[1]):
        yield int(fields[0]) / int(fields[1])
