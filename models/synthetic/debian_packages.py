"""Files of Debian packages: download without installing, and the Qt resource archives that some hold."""

import struct
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

IS_FOLDER, IS_ZLIB, IS_ZSTD = 2, 1, 4  # flags of a resource (Qt's rcc.cpp)


class PackageError(ValueError):
    """A package or an archive that cannot be read."""


def download(package: str, folder: Path) -> Path:
    """Download "name=version" and unpack it below `folder`; the folder of its files. Nothing is installed or run."""
    into = folder / package.partition("=")[0]
    into.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", "-q", package], folder)
    archives = sorted(folder.glob(f"{into.name}_*.deb"))
    _run(["dpkg-deb", "-x", str(archives[-1]), str(into)], folder)
    return into


def _run(command: list[str], folder: Path) -> None:
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600, check=False)
    except FileNotFoundError as error:
        raise PackageError(f"{command[0]} is not installed; Debian and its relatives have it") from error
    if run.returncode:
        raise PackageError(f"{' '.join(command)} failed: {run.stderr.strip()[-300:]}")


def read_resources(archive: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Read the files of a Qt resource archive (.rcc, formats 1 to 3) with their paths."""
    data = archive.read_bytes()
    if data[:4] != b"qres":
        raise PackageError(f"{archive} is no Qt resource archive")
    version, tree, contents, names = struct.unpack(">IIII", data[4:20])
    size = 14 if version < 2 else 22

    def walk(number: int, folder: PurePosixPath) -> Iterator[tuple[PurePosixPath, bytes]]:
        at = tree + number * size
        name, flags = struct.unpack(">IH", data[at : at + 6])
        length = int.from_bytes(data[names + name : names + name + 2], "big")
        start = names + name + 6
        path = folder / data[start : start + 2 * length].decode("utf-16-be") if number else folder
        if flags & IS_FOLDER:
            count, first = struct.unpack(">II", data[at + 6 : at + 14])
            for child in range(first, first + count):
                yield from walk(child, path)
            return
        begin = contents + int.from_bytes(data[at + 10 : at + 14], "big")
        stored = data[begin + 4 : begin + 4 + int.from_bytes(data[begin : begin + 4], "big")]
        if flags & IS_ZSTD:
            raise PackageError(f"{archive}: {path} is compressed by Zstandard, which is not read here")
        yield path, zlib.decompress(stored[4:]) if flags & IS_ZLIB else stored

    return walk(0, PurePosixPath())
