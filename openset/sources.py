"""Pictures and videos of a job: files, folders, glob patterns, and lists of them on standard input."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

PICTURE_SUFFIXES = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".jfif",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".mpo",
        ".png",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
VIDEO_SUFFIXES = frozenset([".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"])
STDIN = "-"
# Folders that tools leave beside pictures; hidden ones are passed over too.
_NOT_PICTURES = {"__MACOSX", "@eaDir"}


class SourceError(ValueError):
    """A source without pictures; the message names it."""


@dataclass(frozen=True)
class MediaFile:
    """A picture or video: its `path`, and its `name`, the path below the root of the job in POSIX form."""

    path: Path
    name: str

    @property
    def is_video(self) -> bool:
        """Tell a video by the end of its name."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES


@dataclass(frozen=True)
class Sources:
    """All pictures and videos of a job, sorted within each source, each file once; `root` is their common folder."""

    root: Path
    files: tuple[MediaFile, ...]


def find_sources(given: Sequence[str], *, stdin: Iterable[str] = (), without: Path | None = None) -> Sources:
    """Find the files that `given` names: files, folders (all pictures and videos below), patterns, `-` for a list.

    A file that is named itself is taken whatever its suffix. Hidden files and folders are passed over, and all below
    `without`, the job's own output. SourceError for a source that is not there or has no picture.
    """
    names = [line for name in given for line in ([name] if name != STDIN else _lines(stdin))]
    if not names:
        raise SourceError("the list on standard input is empty")
    own = None if without is None else Path(os.path.abspath(without))
    files: dict[Path, None] = {}
    folders: list[Path] = []
    for name in names:
        folder, found = _find(name, own)
        folders.append(folder)
        files.update(dict.fromkeys(found))
    try:
        root = Path(os.path.commonpath(folders))
    except ValueError:
        raise SourceError("the pictures lie on several drives: label each drive by itself") from None
    return Sources(root, tuple(MediaFile(path, path.relative_to(root).as_posix()) for path in files))


def _lines(stdin: Iterable[str]) -> list[str]:
    return [name for line in stdin if (name := line.rstrip("\r\n"))]


def _find(name: str, own: Path | None) -> tuple[Path, list[Path]]:
    """The folder of a source and its files, as absolute paths."""
    path = Path(os.path.abspath(name))
    if path.is_dir():
        folder, found = path, sorted(_below(path, own))
    elif path.exists():
        return path.parent, [path]
    elif glob.has_magic(name):
        matches = [Path(os.path.abspath(match)) for match in sorted(glob.glob(name, recursive=True))]
        found = [match for match in matches if match.is_file() and _is_wanted(match, own)]
        found += [file for match in matches if match.is_dir() for file in sorted(_below(match, own))]
        folder = Path(os.path.commonpath([file.parent for file in found])) if found else path.parent
    else:
        raise SourceError(f"there is no file or folder {name!r}")
    if not found:
        raise SourceError(f"{name!r} has no picture or video: looked for {' '.join(sorted(PICTURE_SUFFIXES))}")
    return folder, found


def _below(folder: Path, own: Path | None) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        folders[:] = [
            each
            for each in folders
            if not each.startswith(".") and each not in _NOT_PICTURES and Path(parent, each) != own
        ]
        yield from (path for each in files if _is_wanted(path := Path(parent, each), own))


def _is_wanted(path: Path, own: Path | None) -> bool:
    known = path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES
    elsewhere = (own is None or own not in path.parents) and not _NOT_PICTURES.intersection(path.parts)
    return known and elsewhere and not path.name.startswith(".")
