import os
from pathlib import Path

import pytest

from models.data.folders import is_hidden, pictures_in


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a.jpg", "B.PNG", "below/c.webp", "notes.txt"):
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).touch()
    return tmp_path / "set"


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in pictures_in(folder)]


def test_pictures_are_found_in_all_folders_below_in_order(folder: Path):
    assert names(folder) == ["B.PNG", "a.jpg", "below/c.webp"]


@pytest.mark.parametrize(
    "hidden",
    ["._a.jpg", ".hidden.png", ".ipynb_checkpoints/a.jpg", "__MACOSX/a.jpg", "below/@eaDir/c.webp", "x.jpg/notes.txt"],
)
def test_hidden_files_and_folders_and_folders_called_like_pictures_are_passed_over(folder: Path, hidden: str):
    before = names(folder)
    (folder / hidden).parent.mkdir(exist_ok=True)
    (folder / hidden).touch()
    assert names(folder) == before


def test_links_are_followed_once(folder: Path, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "d.jpg").touch()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "below" / "up").symlink_to(folder)
    assert names(folder) == ["B.PNG", "a.jpg", "below/c.webp", "linked/d.jpg"]


def test_a_link_that_leads_nowhere_is_kept_to_be_named_and_a_pipe_is_none(folder: Path):
    (folder / "gone.jpg").symlink_to(folder / "nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    assert names(folder) == ["B.PNG", "a.jpg", "below/c.webp", "gone.jpg"]


def test_the_folder_itself_is_not_hidden():
    assert [is_hidden(name) for name in (".", "..", ".git", "a.b")] == [False, False, True, False]
