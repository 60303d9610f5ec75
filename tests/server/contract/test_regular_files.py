import os
import socket
from pathlib import Path

import pytest

from server.contract.regular_files import open_regular, read_regular


def test_a_regular_file_is_read_also_by_a_link(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"bytes")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_regular(tmp_path / "link") == read_regular(str(tmp_path / "file")) == b"bytes"


@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_may_have_no_end_is_refused_at_once(tmp_path: Path, kind: str):
    path = tmp_path / kind
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "socket":
            listener.bind(str(path))
        with pytest.raises(OSError, match="it is no regular file"):
            open_regular(path)


def test_a_pipe_that_takes_the_files_place_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    os.mkfifo(tmp_path / "pipe")
    regular = os.stat(__file__)
    monkeypatch.setattr(os, "stat", lambda path: regular)
    with pytest.raises(OSError, match="it is no regular file"):
        open_regular(tmp_path / "pipe")


def test_folder_is_no_file_and_what_is_missing_is_not_found(tmp_path: Path):
    with pytest.raises(OSError, match="it is no regular file"):
        open_regular(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


def test_file_of_too_many_bytes_is_refused_before_it_is_read(tmp_path: Path):
    for size in (10, 11):
        (tmp_path / f"{size}").write_bytes(bytes(size))
    assert len(read_regular(tmp_path / "10", most=10)) == 10
    with pytest.raises(OSError, match="it has 11 bytes, at most 10 are read"):
        read_regular(tmp_path / "11", most=10)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(OSError, match="it has 1099511627776 bytes"):
        read_regular(tmp_path / "sparse")
