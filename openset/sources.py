"""Pictures and videos of a job: files, folders, glob patterns, addresses, and lists of them on standard input."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath

from openset.file_systems import FileSystem, is_address, open_address, read_remote
from openset.images import read_regular

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
    """A picture or video: its `path`, and its `name`, the path below the root of the job in POSIX form.

    filesystem: where the path is, of fsspec; None for this machine's own.
    """

    path: PurePath
    name: str
    filesystem: FileSystem | None = None

    @property
    def is_video(self) -> bool:
        """Tell a video by the end of its name."""
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def address(self) -> str:
        """The path, as a person would give it."""
        return _address(self.path, self.filesystem)

    def read(self) -> bytes:
        """Read the bytes; OSError where that fails, for what is no regular file, and for a gibibyte and more."""
        return read_regular(Path(self.path)) if self.filesystem is None else read_remote(self.filesystem, self.path)


@dataclass(frozen=True)
class Sources:
    """All pictures and videos of a job, sorted within each source, each file once; `root` is their common folder."""

    root: PurePath
    files: tuple[MediaFile, ...]
    filesystem: FileSystem | None = None

    @property
    def address(self) -> str:
        """The root, as a person would give it."""
        return _address(self.root, self.filesystem)


def find_sources(given: Sequence[str], *, stdin: Iterable[str] = (), without: Path | None = None) -> Sources:
    """Find the files that `given` names: files, folders (all pictures and videos below), patterns, `-` for a list.

    Names like `s3://bucket/photos` are addresses of fsspec, whose files are all in one place. A file that is named
    itself is taken whatever its suffix. Hidden files and folders are passed over, and all below `without`, the job's
    own output. SourceError for a source that is not there or has no picture.
    """
    names = [line for name in given for line in ([name] if name != STDIN else _lines(stdin))]
    if not names:
        raise SourceError("the list on standard input is empty")
    filesystem, names = _place_of(names)
    own = None if without is None or filesystem else Path(os.path.abspath(without))
    files: dict[PurePath, None] = {}
    folders: list[PurePath] = []
    for name in names:
        folder, found = _find(name, own) if filesystem is None else _find_remote(filesystem, name)
        folders.append(folder)
        files.update(dict.fromkeys(found))
    try:
        common = os.path.commonpath(folders)
    except ValueError:
        raise SourceError("the pictures lie on several drives: label each drive by itself") from None
    root = Path(common) if filesystem is None else PurePosixPath(common)
    media = (MediaFile(path, path.relative_to(root).as_posix(), filesystem) for path in files)
    return Sources(root, tuple(media), filesystem)


def _lines(stdin: Iterable[str]) -> list[str]:
    return [name for line in stdin if (name := line.rstrip("\r\n"))]


def _address(path: PurePath, filesystem: FileSystem | None) -> str:
    return str(path) if filesystem is None else str(filesystem.unstrip_protocol(str(path)))


def _place_of(names: list[str]) -> tuple[FileSystem | None, list[str]]:
    """The file system of addresses, None for this machine's own, and the names there."""
    if not any(map(is_address, names)):
        return None, names
    try:
        opened = [open_address(name) for name in names]
    except (ValueError, ImportError) as error:  # no such protocol; a package for it is missing
        raise SourceError(str(error)) from None
    filesystem = opened[0][0]
    if any(other != filesystem for other, _ in opened):
        raise SourceError("the pictures lie in several places: label each place by itself")
    return filesystem, [path for _, path in opened]


def _find_remote(filesystem: FileSystem, name: str) -> tuple[PurePath, list[PurePath]]:
    """The folder of a source of another file system, and its files."""
    try:
        if filesystem.isfile(name):
            return PurePosixPath(name).parent, [PurePosixPath(name)]
        folder = PurePosixPath(name)
        pattern = glob.has_magic(name)
        matches = sorted(filesystem.glob(name)) if pattern else [name]
        below = [PurePosixPath(path) for match in matches for path in sorted(filesystem.find(match))]
    except Exception as error:  # each implementation has errors of its own
        raise SourceError(f"{filesystem.unstrip_protocol(name)} cannot be listed: {error}") from None
    found: list[PurePath] = [path for path in below if _is_shown(path, folder) and _is_wanted(path, None)]
    if not found:
        raise SourceError(f"{filesystem.unstrip_protocol(name)} is not there, or has no picture or video")
    return PurePosixPath(os.path.commonpath([path.parent for path in found])) if pattern else folder, found


def _is_shown(path: PurePath, folder: PurePath) -> bool:
    """True for a file below no hidden folder; those above `folder` were named themselves."""
    below = path.parts[len(folder.parts) :] if path.is_relative_to(folder) else path.parts
    return not any(part.startswith(".") for part in below)


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


def _is_wanted(path: PurePath, own: Path | None) -> bool:
    known = path.suffix.lower() in PICTURE_SUFFIXES | VIDEO_SUFFIXES
    elsewhere = (own is None or own not in path.parents) and not _NOT_PICTURES.intersection(path.parts)
    return known and elsewhere and not path.name.startswith(".")
