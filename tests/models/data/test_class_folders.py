import json
from pathlib import Path

import pytest

from models.data.class_folders import ClassFolders
from models.data.images import DataError
from tests.models.data import annotated_sets as sets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("hot_dog", 2), ("Cat", 1), (".cache", 1)):
        sets.write_pictures(tmp_path / "set" / name, count)
    return tmp_path / "set"


def test_each_picture_has_the_name_of_its_folder(folder: Path):
    found = ClassFolders(folder)
    assert found.names == ("Cat", "hot dog")
    assert [(found[index].label, Path(found[index].where).parent.name) for index in range(len(found))] == [
        (0, "Cat"),
        (1, "hot_dog"),
        (1, "hot_dog"),
    ]
    assert found[0].picture.open().size == (80, 60)


def test_folders_with_one_name_are_one_class(folder: Path):
    sets.write_pictures(folder / "cat", 1)
    assert ClassFolders(folder).names == ("Cat", "hot dog")


def test_label_map_renames_folders_and_has_them_all(folder: Path, tmp_path: Path):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"hot_dog": "a sausage", "Cat": "a cat"}))
    assert ClassFolders(folder, label_map=labels).names == ("a cat", "a sausage")
    labels.write_text(json.dumps({"Cat": "a cat"}))
    with pytest.raises(DataError, match=r"has no \['hot_dog'\]"):
        ClassFolders(folder, label_map=labels)


def test_class_without_a_picture_is_refused_or_left_out(folder: Path):
    (folder / "empty").mkdir()
    with pytest.raises(DataError, match="empty has no picture"):
        ClassFolders(folder)
    found = ClassFolders(folder, skip=True)
    assert found.names == ("Cat", "hot dog")
    assert found.faults.counts == {"class without a picture": 1}


def test_folder_without_classes_is_refused(tmp_path: Path):
    sets.write_pictures(tmp_path / "flat", 1)
    with pytest.raises(DataError, match="a folder of images for each class is expected"):
        ClassFolders(tmp_path / "flat")
    with pytest.raises(DataError, match="is not a folder of classes"):
        ClassFolders(tmp_path / "missing")
