"""What the cgroup of this process allows it: the host's figures mislead inside a container."""

from collections.abc import Iterator
from pathlib import Path

# Version 1 writes the largest multiple of a page below 2**63 where there is no limit.
_NO_LIMIT = 2**62


def memory_limit(*, proc: Path = Path("/proc"), cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """The tightest memory limit of this process's cgroup and its parents, in bytes; None without one."""
    limits = []
    for version, folder in folders("memory", proc=proc, cgroup=cgroup):
        limit = text(folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")).strip()
        if limit.isdigit() and int(limit) < _NO_LIMIT:
            limits.append(int(limit))
    return min(limits, default=None)


def folders(controller: str, *, proc: Path, cgroup: Path) -> Iterator[tuple[int, Path]]:
    """The version and folder of this process's cgroup and of each of its parents, for one controller."""
    for line in text(proc / "self" / "cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for depth in range(len(parts) + 1):
            below = Path(*parts[:depth])
            if not controllers:  # version 2: one tree for all
                yield 2, cgroup / below
            elif controller in controllers.split(","):
                tree = controllers if (cgroup / controllers).is_dir() else controller
                yield 1, cgroup / tree / below


def text(path: Path) -> str:
    """What a file of the system says; nothing where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
