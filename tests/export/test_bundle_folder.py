"""The folder of a bundle appears complete or not at all."""

import pytest

from export import ExportError
from export.bundle_folder import bundle_in_place, bundle_name


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_folder_appears_when_it_is_complete(tmp_path):
    with bundle_in_place(tmp_path / "a" / "bundle") as folder:
        (folder / "manifest.json").write_text("{}")
        assert not (tmp_path / "a" / "bundle").exists()
    assert names(tmp_path / "a") == ["bundle"]
    assert (tmp_path / "a" / "bundle").stat().st_mode & 0o777 == 0o755


def test_failure_leaves_nothing_new_and_the_old_bundle(tmp_path):
    with bundle_in_place(tmp_path / "bundle") as folder:
        (folder / "manifest.json").write_text("old")
    with pytest.raises(FileNotFoundError), bundle_in_place(tmp_path / "bundle") as folder:
        (folder / "gone").unlink()
    assert names(tmp_path) == ["bundle"]
    assert (tmp_path / "bundle/manifest.json").read_text() == "old"


def test_old_bundle_is_replaced_whole(tmp_path):
    for name in ("old", "new"):
        with bundle_in_place(tmp_path / "bundle") as folder:
            (folder / "manifest.json").write_text(name)
            (folder / name).write_text("")
    assert names(tmp_path / "bundle") == ["manifest.json", "new"]
    assert names(tmp_path) == ["bundle"]


def test_anything_else_there_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/photo.jpg").write_bytes(b"")
    (tmp_path / "file").write_bytes(b"")
    for target in ("folder", "file"):
        with pytest.raises(ExportError, match="is no bundle"), bundle_in_place(tmp_path / target):
            pass


@pytest.mark.parametrize(("folder", "name"), [("Small CLIP", "small-clip"), ("_v1.0", "v1.0")])
def test_name_is_made_of_the_folder(folder, name):
    assert bundle_name(folder) == name


def test_name_without_a_letter_is_refused():
    with pytest.raises(ExportError, match="bundle name"):
        bundle_name("...")
