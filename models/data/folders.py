"""Pictures in a folder tree, without the files and folders that programs hide there."""

import os
from pathlib import Path

from models.data.images import SUFFIXES, DataError

# Folders that archives, editors, file servers and file systems leave beside pictures, some with pictures of their own.
_FOREIGN = {"__MACOSX", "__pycache__", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found"}


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder of this name is none of the set: `.ipynb_checkpoints`, `._a.jpg`, `__MACOSX`."""
    return (name.startswith(".") and name not in (".", "..")) or name in _FOREIGN


def pictures_in(folder: Path) -> list[Path]:
    """Picture files in a folder and those below it, links followed, in the order of their paths.

    A folder that may not be read raises DataError; a link that leads nowhere counts, and is found faulty when opened.
    """
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        above = _places_above(Path(parent), folder)
        # A link to a folder above would have no end.
        folders[:] = [name for name in folders if not is_hidden(name) and _place(Path(parent, name)) not in above]
        found += [path for name in files if _is_picture(path := Path(parent, name))]
    return sorted(found)


def _is_picture(path: Path) -> bool:
    named = not is_hidden(path.name) and path.suffix.lower() in SUFFIXES
    return named and (path.is_file() or (path.is_symlink() and not path.exists()))


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror or error}")


def _places_above(folder: Path, top: Path) -> set[tuple[int, int]]:
    """The device and inode of a folder and of those above it, up to `top`."""
    chain = [folder, *folder.parents]
    return {_place(one) for one in chain[: chain.index(top) + 1]}


def _place(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino
