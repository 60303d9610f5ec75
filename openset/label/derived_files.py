"""Files that a job makes of others: copies, drawn pictures and frames, with the times of their sources."""

import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path

_COARSEST_NS = 2_000_000_000  # FAT counts in two seconds


def is_up_to_date(made: Path, source: Path) -> bool:
    """Tell whether `made` is there and has the time of its source, as far as its disk keeps times."""
    try:
        time, wanted = made.stat().st_mtime_ns, source.stat().st_mtime_ns
    except OSError:
        return False
    return time == wanted or (time % 100 == 0 and abs(time - wanted) < _COARSEST_NS)


def put(part: Path, made: Path, source: Path) -> None:
    """Name a finished `part` as it is to be called, with the time of its source: whole, even if the run is killed."""
    time = source.stat().st_mtime_ns
    os.utime(part, ns=(time, time))
    part.replace(made)


def copy(source: Path, made: Path) -> None:
    """Copy a picture that is not there yet, or is no longer the same.

    A link would cost no space, but a tool that rewrites pictures in place would change the originals.
    """
    if is_up_to_date(made, source) and made.stat().st_size == source.stat().st_size:
        return
    made.parent.mkdir(parents=True, exist_ok=True)
    part = made.parent / ".part"  # a name as long as the picture's may be as long as the disk allows
    shutil.copyfile(source, part)
    put(part, made, source)


def remove_others(folder: Path, written: Collection[Path]) -> None:
    """Remove what an earlier run wrote below `folder` and this one did not; what others put there stays."""
    index = folder.with_name(f".{folder.name}.json")  # beside it: what readers look into holds the set alone
    earlier = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else []
    for name in earlier:
        path = folder / name
        if path not in written and path.is_relative_to(folder) and ".." not in path.parts:
            path.unlink(missing_ok=True)
    if folder.is_dir():
        names = sorted(str(path.relative_to(folder)) for path in written if path.is_relative_to(folder))
        part = folder.with_name(".part")
        part.write_text(json.dumps(names), encoding="utf-8")
        part.replace(index)
