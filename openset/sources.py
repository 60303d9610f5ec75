"""Pictures and videos of a job: files, folders, glob patterns, and lists of them on standard input."""

import glob
import os
from collections.abc import Iterable, Sequence
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
OUTPUT_FILES = ("run.json", "results.jsonl")  # of a job, in its folder
# Folders that tools leave beside pictures; hidden ones are passed over too.
_NOT_PICTURES = {"__MACOSX", "@eaDir"}


class SourceError(ValueError):
    """A source without pictures; the message names it."""


@dataclass(frozen=True)
class MediaFile:
    """A picture or video: its `path`, and its `name`, the path below the root of the job in POSIX form.

    `fault`: the reason why it cannot be used, where that is known before it is read.
    """

    path: Path
    name: str
    fault: str | None = None

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
    `without`, the job's own output, and below those of other jobs. Links to folders elsewhere are followed. A folder
    below that cannot be read is a file with a `fault`, as is one whose name is no text. SourceError for a source that
    is not there, cannot be read or has no picture.
    """
    names = [line for name in given for line in ([name] if name != STDIN else _lines(stdin))]
    if not names:
        raise SourceError("the list on standard input is empty")
    own = None if without is None else Path(os.path.abspath(without))
    files: dict[Path, str | None] = {}  # with their faults
    folders: list[Path] = []
    for name in names:
        folder, found = _find(name, own)
        folders.append(folder)
        files.update(found)
    try:
        root = Path(os.path.commonpath(folders))
    except ValueError:
        raise SourceError("the pictures lie on several drives: label each drive by itself") from None
    return Sources(root, tuple(_media(path, fault, root) for path, fault in files.items()))


def printable(path: Path | str) -> str:
    """A path as text that can be written as UTF-8: bytes that are no UTF-8 become \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _media(path: Path, fault: str | None, root: Path) -> MediaFile:
    own = path.relative_to(root).as_posix()
    name = printable(own)
    return MediaFile(path, name, fault or ("its name is not UTF-8: rename it" if name != own else None))


def _lines(stdin: Iterable[str]) -> list[str]:
    return [name for line in stdin if (name := line.rstrip("\r\n"))]


def _find(name: str, own: Path | None) -> tuple[Path, dict[Path, str | None]]:
    """The folder of a source and its files, as absolute paths, with their faults."""
    path = Path(os.path.abspath(name))
    if os.path.isdir(path):
        folder, found = path, _below(path, own)
    elif os.path.lexists(path):
        return path.parent, {path: None}
    elif glob.has_magic(name):
        found = {}
        for match in sorted(Path(os.path.abspath(match)) for match in glob.glob(name, recursive=True)):
            if os.path.isdir(match):
                found |= _below(match, own)
            elif _is_wanted(match, own):
                found[match] = None
        folder = Path(os.path.commonpath([file.parent for file in found])) if found else path.parent
    else:
        raise SourceError(f"there is no file or folder {name!r}")
    if path in found:  # the folder itself
        raise SourceError(f"{name!r} {found[path]}")
    if not found:
        raise SourceError(f"{name!r} has no picture or video: looked for {' '.join(sorted(PICTURE_SUFFIXES))}")
    return folder, found


def _below(folder: Path, own: Path | None) -> dict[Path, str | None]:
    """The files below a folder, sorted, with the faults of folders that cannot be read."""
    top = Path(os.path.realpath(folder))
    followed: set[Path] = set()
    found: dict[Path, str | None] = {}

    def is_entered(path: Path) -> bool:
        if path.name.startswith(".") or path.name in _NOT_PICTURES or path == own or _is_output(path):
            return False
        if not path.is_symlink():
            return True
        place = Path(os.path.realpath(path))
        # What lies below is found without the link, and a circle of links has no end.
        chain = {place, *place.parents}
        if top in chain or place in top.parents or chain & followed:
            return False
        followed.add(place)
        return True

    def note(error: OSError) -> None:
        found[Path(error.filename)] = f"cannot be read: {error.strerror}"

    for parent, folders, files in os.walk(folder, followlinks=True, onerror=note):
        folders[:] = [name for name in folders if is_entered(Path(parent, name))]
        found |= {path: None for name in files if _is_wanted(path := Path(parent, name), own)}
    return dict(sorted(found.items()))


def _is_output(folder: Path) -> bool:
    """Tell the output of a job by the files that each has."""
    return all(os.path.isfile(folder / name) for name in OUTPUT_FILES)


def _is_wanted(path: Path, own: Path | None) -> bool:
    known = path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES
    elsewhere = (own is None or own not in path.parents) and not _NOT_PICTURES.intersection(path.parts)
    return known and elsewhere and not path.name.startswith(".")
