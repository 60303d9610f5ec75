"""Files at addresses (`s3://bucket/photos`, `gs://…`, `memory://…`), by fsspec.

Each protocol is a package of its own, as s3fs, that is configured by its own variables and files.
"""

import errno
import re
from pathlib import Path
from typing import Any, TypeAlias

FileSystem: TypeAlias = Any  # fsspec's AbstractFileSystem, which is imported where there is an address
MOST_BYTES = 2**30


def is_address(name: str) -> bool:
    """Tell an address of fsspec from a path; a Windows drive is none."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+(::|://)", name) is not None


def open_address(address: str) -> tuple[FileSystem, str]:
    """The file system of an address, and the path there; ValueError or ImportError where there is none."""
    from fsspec.core import url_to_fs

    filesystem, path = url_to_fs(address)
    return filesystem, path.rstrip("/") or path


def read_remote(filesystem: FileSystem, path: Path) -> bytes:
    """Read the bytes of a file; OSError for whatever goes wrong, and for a gibibyte and more."""
    try:
        with filesystem.open(path.as_posix(), "rb") as stream:
            data: bytes = stream.read(MOST_BYTES + 1)
    except OSError:
        raise
    except Exception as error:  # each implementation has errors of its own
        raise OSError(errno.EIO, f"{type(error).__name__}: {error}", str(path)) from error
    if len(data) > MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has more than {MOST_BYTES} bytes", str(path))
    return data
