import json
import os

import pytest

from openset.label.derived_files import copy, is_up_to_date, put, remove_others

TIME = 1_700_000_000_123_456_789


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"picture")
    os.utime(path, ns=(TIME, TIME))
    return path


def test_copy_is_another_file_and_is_made_once(source, tmp_path):
    made = tmp_path / "out" / "sub" / "a.jpg"
    copy(source, made)
    assert made.read_bytes() == b"picture"
    assert made.stat().st_ino != source.stat().st_ino
    first = made.stat().st_ino
    copy(source, made)
    assert made.stat().st_ino == first
    assert [path.name for path in made.parent.iterdir()] == ["a.jpg"]


@pytest.mark.parametrize(("content", "time"), [(b"longer than it was", TIME), (b"another", TIME + 1)])
def test_picture_that_has_changed_is_copied_again(source, tmp_path, content, time):
    made = tmp_path / "out" / "a.jpg"
    copy(source, made)
    source.write_bytes(content)
    os.utime(source, ns=(time, time))
    copy(source, made)
    assert made.read_bytes() == content


@pytest.mark.parametrize(
    ("kept", "current"),
    [
        (TIME, True),
        (TIME // 100 * 100, True),  # NTFS
        (TIME // 10**9 * 10**9, True),  # HFS+
        (TIME // 10**9 * 10**9 - 10**9, True),  # FAT
        (TIME - 1, False),
        (TIME // 10**9 * 10**9 - 2 * 10**9, False),
    ],
)
def test_time_is_compared_as_finely_as_a_disk_keeps_it(source, tmp_path, kept, current):
    made = tmp_path / "made.jpg"
    made.write_bytes(b"")
    os.utime(made, ns=(kept, kept))
    assert is_up_to_date(made, source) is current


def test_nothing_is_up_to_date_without_both_files(source, tmp_path):
    assert not is_up_to_date(tmp_path / "missing.jpg", source)
    assert not is_up_to_date(source, tmp_path / "missing.jpg")


def test_finished_file_has_the_time_of_its_source(source, tmp_path):
    part, made = tmp_path / ".part", tmp_path / "made.jpg"
    part.write_bytes(b"drawn")
    put(part, made, source)
    assert (made.read_bytes(), made.stat().st_mtime_ns, part.exists()) == (b"drawn", TIME, False)


def test_what_an_earlier_run_wrote_is_removed_and_what_others_put_there_stays(tmp_path):
    folder = tmp_path / "drawn"
    for name in ("a.jpg", "sub/b.txt", "own.jpg"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text("")
    remove_others(folder, {folder / "a.jpg", folder / "sub/b.txt"})
    remove_others(folder, {folder / "a.jpg"})
    found = {path.name for path in folder.rglob("*") if path.is_file()}
    assert found == {"a.jpg", "own.jpg"}


def test_index_of_another_hand_removes_nothing_elsewhere(tmp_path):
    folder, other = tmp_path / "yolo", tmp_path / "other.jpg"
    folder.mkdir()
    other.write_text("")
    (tmp_path / ".yolo.json").write_text(json.dumps([str(other), "../other.jpg", "gone.jpg"]))
    remove_others(folder, set())
    assert other.exists()
