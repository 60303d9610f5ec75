"""Qt resource archives as rcc writes them, and failures of Debian's tools told in words."""

import struct
import zlib
from pathlib import Path, PurePosixPath

import pytest

from models.synthetic.debian_packages import PackageError, download, read_resources

FILES = {"birds/owl.webp": b"an owl" * 50, "birds/README": b"free", "seas/deep/sea.webp": b""}


def write_resources(file: Path, files: dict[str, bytes], *, version: int = 3, flags: int = 1) -> Path:
    """Write an archive: a tree breadth first, names and contents apart; `flags` of files: 1 zlib, 4 Zstandard."""
    names, contents = b"", b""
    nodes: list[bytes] = []

    def name_at(name: str) -> int:
        nonlocal names
        at = len(names)
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
        return at

    def children(folder: str) -> list[str]:
        return sorted({path[len(folder) :].split("/")[0] for path in files if path.startswith(folder)})

    tail = b"" if version < 2 else struct.pack(">Q", 0)
    queue, first = [""], 1
    while queue:
        path = queue.pop(0)
        at = name_at(path.rstrip("/").rpartition("/")[2])
        if path in files:
            data = files[path]
            stored = struct.pack(">I", len(data)) + zlib.compress(data) if flags & 1 else data
            nodes.append(struct.pack(">IHHHI", at, flags, 0, 0, len(contents)) + tail)
            contents += struct.pack(">I", len(stored)) + stored
            continue
        inside = [path + one if path + one in files else f"{path}{one}/" for one in children(path)]
        nodes.append(struct.pack(">IHII", at, 2, len(inside), first) + tail)
        first += len(inside)
        queue += inside
    tree = b"".join(nodes)
    start = 20 if version < 3 else 24
    places = (start, start + len(tree), start + len(tree) + len(contents))
    file.write_bytes(b"qres" + struct.pack(">IIII", version, *places) + b"\0" * (start - 20) + tree + contents + names)
    return file


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("flags", [0, 1])
def test_all_files_of_an_archive_are_read_with_their_paths(version, flags, tmp_path):
    archive = write_resources(tmp_path / "some.rcc", FILES, version=version, flags=flags)
    assert dict(read_resources(archive)) == {PurePosixPath(path): data for path, data in FILES.items()}


def test_an_archive_in_zstandard_is_refused_by_name(tmp_path):
    archive = write_resources(tmp_path / "some.rcc", FILES, flags=4)
    with pytest.raises(PackageError, match=r"some\.rcc: birds/README is compressed by Zstandard"):
        dict(read_resources(archive))


def test_another_file_is_no_archive(tmp_path):
    (tmp_path / "some.rcc").write_bytes(b"GIF89a" + b"\0" * 40)
    with pytest.raises(PackageError, match=r"some\.rcc is no Qt resource archive"):
        read_resources(tmp_path / "some.rcc")


@pytest.mark.parametrize(
    ("tool", "message"),
    [(None, "apt-get is not installed"), ("#!/bin/sh\necho no such package >&2\nexit 100\n", "no such package")],
)
def test_a_package_that_cannot_be_had_is_told(tool, message, tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    if tool:
        (tools / "apt-get").write_text(tool)
        (tools / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(PackageError, match=message):
        download("gcompris=1", tmp_path)
