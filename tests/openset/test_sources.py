import errno
import os
import sys

import pytest

from openset.sources import SourceError, find_sources


@pytest.fixture
def folder(tmp_path):
    for name in (
        "b.jpg",
        "a.PNG",
        "notes.txt",
        "sub/c.webp",
        "sub/clip.mp4",
        ".hidden.jpg",
        ".git/d.jpg",
        "__MACOSX/e.jpg",
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path / "photos"


def names(sources):
    return [source.name for source in sources.files]


def test_folder_gives_all_pictures_and_videos_below_without_hidden_ones(folder):
    sources = find_sources([str(folder)])
    assert names(sources) == ["a.PNG", "b.jpg", "sub/c.webp", "sub/clip.mp4"]
    assert sources.root == folder
    assert [source.is_video for source in sources.files] == [False, False, False, True]


def test_file_is_taken_whatever_its_suffix_and_named_below_its_folder(folder):
    assert names(find_sources([str(folder / "notes.txt")])) == ["notes.txt"]


def test_pattern_list_and_folder_name_each_file_once_below_their_common_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    sources = find_sources(["*.jpg", "-", "sub"], stdin=["b.jpg\n", "sub/c.webp\n"])
    assert names(sources) == ["b.jpg", "sub/c.webp", "sub/clip.mp4"]
    assert sources.root == folder


def test_recursive_pattern_finds_pictures_in_subfolders(folder):
    assert names(find_sources([f"{folder}/**/*.webp"])) == ["c.webp"]


def test_own_output_within_the_folder_is_no_source(folder):
    out = folder / "labels"
    (out / "drawn").mkdir(parents=True)
    (out / "drawn" / "b.jpg").write_bytes(b"")
    assert "labels/drawn/b.jpg" not in names(find_sources([str(folder)], without=out))
    assert names(find_sources([f"{folder}/**/*.jpg"], without=out)) == ["b.jpg"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_in_a_circle_end(folder):
    (folder / "loop").symlink_to(folder)
    assert names(find_sources([str(folder)])) == ["a.PNG", "b.jpg", "sub/c.webp", "sub/clip.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_link_to_a_folder_elsewhere_is_followed_once(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "far.jpg").write_bytes(b"")
    (tmp_path / "elsewhere" / "back").symlink_to(folder)
    for name in ("link", "same"):
        (folder / name).symlink_to(tmp_path / "elsewhere")
    (far,) = [name for name in names(find_sources([str(folder)])) if name.endswith("far.jpg")]
    assert far in ("link/far.jpg", "same/far.jpg")


def test_output_of_another_job_below_the_folder_is_no_source(folder):
    for name in ("old/run.json", "old/results.jsonl", "old/drawn/a.jpg"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    assert not [name for name in names(find_sources([str(folder)])) if name.startswith("old")]


@pytest.fixture
def locked(monkeypatch):
    """Lets no folder called locked be read, as it would be for a user without rights; root has them all."""
    scandir = os.scandir

    def refusing(path="."):
        if os.path.basename(path) == "locked":
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)


def test_folder_below_that_cannot_be_read_is_told_and_ends_nothing(folder, locked):
    (folder / "locked").mkdir()
    files = find_sources([str(folder)]).files
    assert [(file.name, file.fault) for file in files if file.fault] == [
        ("locked", "cannot be read: Permission denied")
    ]
    assert len(files) == 5


def test_folder_that_cannot_be_read_is_refused_as_a_source(folder, locked):
    (folder / "locked").mkdir()
    with pytest.raises(SourceError, match="cannot be read: Permission denied"):
        find_sources([str(folder / "locked")])


@pytest.mark.skipif(sys.platform != "linux", reason="names of other systems are text")
def test_name_that_is_no_text_is_a_fault_of_its_file_and_can_be_written(folder):
    (folder / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    (fault,) = [file for file in find_sources([str(folder)]).files if file.fault]
    assert fault.name == "caf\\xe9.jpg"
    assert fault.fault == "its name is not UTF-8: rename it"


@pytest.mark.parametrize("given", ["missing.jpg", "missing/*.jpg", "empty"])
def test_source_without_pictures_is_named(tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match=given.replace("*", r"\*")):
        find_sources([given])


def test_empty_list_on_standard_input_is_refused():
    with pytest.raises(SourceError, match="standard input"):
        find_sources(["-"], stdin=[])
