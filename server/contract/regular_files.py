"""Files by a path that somebody gave: a pipe, socket or device is refused, since reading it may never end.

So is a file of more bytes than one of its kind has, before any memory is taken for them.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

MOST_BYTES = 2**30


def open_regular(path: Path | str) -> BufferedReader:
    """Open a regular file to read its bytes; OSError for whatever else has this name, without waiting for it."""
    _check(os.stat(path).st_mode, path)  # some devices do something as soon as they are opened
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115
    try:
        _check(os.fstat(file.fileno()).st_mode, path)
    except OSError:
        file.close()
        raise
    return file


def read_regular(path: Path | str, *, most: int = MOST_BYTES) -> bytes:
    """Read the bytes of a regular file; OSError as of `open_regular`, and for one of more than `most` bytes."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise OSError(errno.EFBIG, f"it has {size} bytes, at most {most} are read", str(path))
        return file.read()


def is_device(file: object) -> bool:
    """True for an open file that is a device, such as /dev/zero, which has no end; a pipe's is its writer's."""
    try:
        mode = os.fstat(file.fileno()).st_mode  # type: ignore[attr-defined]
    except Exception:  # it is no file of the system's, or closed
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # opening a pipe would wait for its writer


def _check(mode: int, path: Path | str) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
