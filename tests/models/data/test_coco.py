import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.data.coco import CocoSet
from models.data.images import DataError
from models.data.records import DetectionRecord, GroundingRecord
from tests.models.data import annotated_sets as sets


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    return sets.coco(tmp_path)


def opened(folder: Path, data: dict[str, Any], *, skip: bool = False) -> CocoSet:
    sets.rewrite(folder, data)
    return CocoSet(folder / "coco.json", folder / "pictures", skip=skip)


def test_boxes_become_corners_and_categories_places_in_the_names(tmp_path: Path, data: dict[str, Any]):
    found = opened(tmp_path, data)
    assert len(found) == 6
    record = found[1]
    assert isinstance(record, DetectionRecord)
    (_, first), (_, second) = sets.picture(1)[1]
    wanted = [[x, y, x + w, y + h] for x, y, w, h in (first, second)]
    assert record.boxes_xyxy.tolist() == wanted
    assert [record.names[label] for label in record.labels] == ["green", "blue"]
    assert record.size == (60, 80)
    assert record.picture.open(record.size).size == (80, 60)


def test_pictures_without_objects_are_kept(tmp_path: Path, data: dict[str, Any]):
    data["annotations"] = []
    record = opened(tmp_path, data)[0]
    assert record.boxes_xyxy.shape == (0, 4)


def test_crowd_regions_are_left_out(tmp_path: Path, data: dict[str, Any]):
    data["annotations"][0]["iscrowd"] = 1
    found = opened(tmp_path, data)
    assert len(found[0].boxes_xyxy) == 0
    assert found.faults.total == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 99}, "annotation id 0: its category id 99 is not among the categories"),
        ({"image_id": 7}, "annotation id 0: its image id 7 is not among the images"),
        ({"bbox": [1, 2, 3]}, "annotation id 0: bbox is .*; four finite numbers"),
        (
            {"bbox": [1, 2, 3, float("nan")]},
            "annotation id 0: bbox is .*; four finite numbers",
        ),
        ({"bbox": "1 2 3 4"}, "annotation id 0: bbox is .*; four finite numbers"),
    ],
)
def test_a_faulty_annotation_is_named_or_skipped(
    tmp_path: Path, data: dict[str, Any], caplog: pytest.LogCaptureFixture, change: dict[str, Any], message: str
):
    data["annotations"][0] |= change
    with pytest.raises(DataError, match=r"coco\.json: " + message):
        opened(tmp_path, data)
    with caplog.at_level(logging.WARNING):
        found = opened(tmp_path, data, skip=True)
    assert found.faults.total == 1
    assert "1 faulty entries" in caplog.text
    assert len(found[0].boxes_xyxy) == 0


@pytest.mark.parametrize("text", ["{", "[]", '{"images": []}'])
def test_what_is_no_coco_file_is_named(tmp_path: Path, text: str):
    (tmp_path / "coco.json").write_text(text)
    with pytest.raises(DataError, match=r"coco\.json"):
        CocoSet(tmp_path / "coco.json", tmp_path)


def test_repeated_category_ids_are_refused(tmp_path: Path, data: dict[str, Any]):
    data["categories"][1]["id"] = data["categories"][0]["id"]
    with pytest.raises(DataError, match="category id 10 occurs twice"):
        opened(tmp_path, data)


def test_images_with_captions_are_grounding_records(tmp_path: Path, data: dict[str, Any]):
    data["images"][0]["caption"] = "look, a red square"
    data["annotations"][0]["tokens_positive"] = [[6, 18]]
    record = opened(tmp_path, data)[0]
    assert isinstance(record, GroundingRecord)
    (region,) = record.regions
    assert [record.caption[start:end] for start, end in region.spans] == ["a red square"]
    data["annotations"][0]["tokens_positive"] = [[6, 40]]
    with pytest.raises(
        DataError, match=r"annotation id 0: tokens_positive has \[6, 40\), the caption has 18 characters"
    ):
        opened(tmp_path, data)


def test_only_what_lvis_has_looked_for_counts_as_absent(tmp_path: Path, data: dict[str, Any]):
    data["images"][0]["neg_category_ids"] = [12, 13]
    first, second = (opened(tmp_path, data)[index] for index in (0, 1))
    assert isinstance(first, DetectionRecord)
    assert isinstance(second, DetectionRecord)
    assert (first.absent, second.absent) == ((2, 3), None)
    assert first.labels.dtype == np.int64
    data["images"][0]["neg_category_ids"] = [12, 77]
    with pytest.raises(DataError, match=r"image id 100: its neg_category_ids \[77\] are not among the categories"):
        opened(tmp_path, data)


@pytest.mark.parametrize(
    ("part", "change", "kind"),
    [
        ("annotations", {"bbox": [None] * 4}, "annotation bbox"),
        ("annotations", {"bbox": ["1", "2", "3", "4"]}, "annotation bbox"),
        ("annotations", {"bbox": [10, 10, 0, 0]}, "annotation bbox"),
        ("annotations", {"bbox": [30, 30, -10, -10]}, "annotation bbox"),
        ("annotations", {"bbox": [400, 300, 50, 50]}, "annotation bbox"),
        ("annotations", {"area": "12"}, "annotation area"),
        ("annotations", {"iscrowd": "no"}, "annotation iscrowd"),
        ("annotations", {"image_id": True}, "annotation image_id"),
        ("annotations", {"image_id": [1]}, "annotation image_id"),
        ("annotations", {"category_id": None}, "annotation category_id"),
        ("images", {"file_name": None}, "image file_name"),
        ("images", {"file_name": "a\0b.png"}, "image file_name"),
        ("images", {"height": "60"}, "image height"),
        ("images", {"width": -80}, "image width"),
        ("images", {"id": None}, "image id"),
        ("images", {"caption": 7}, "image caption"),
        ("images", {"neg_category_ids": [99]}, "image neg_category_ids"),
        ("categories", {"name": None}, "category name"),
        ("categories", {"name": " "}, "category name"),
        ("categories", {"id": True}, "category id"),
    ],
)
def test_every_faulty_field_is_named_or_left_out_and_counted(
    tmp_path: Path, data: dict[str, Any], part: str, change: dict[str, Any], kind: str
):
    data[part][0] |= change
    entry, _, field = kind.partition(" ")
    with pytest.raises(DataError, match=rf"coco\.json: {entry} .*{field.partition('_')[0]}"):
        opened(tmp_path, data)
    assert opened(tmp_path, data, skip=True).faults.counts[kind] == 1


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
@pytest.mark.parametrize("entry", [None, 7, "a", [], True])
def test_an_entry_that_is_no_object_is_named_or_left_out(tmp_path: Path, data: dict[str, Any], part: str, entry: Any):
    before = opened(tmp_path, data)
    data[part].append(entry)
    with pytest.raises(DataError, match=rf"number {len(data[part])} is .*; an object is expected"):
        opened(tmp_path, data)
    found = opened(tmp_path, data, skip=True)
    assert (len(found), found.names, found.faults.total) == (len(before), before.names, 1)


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
@pytest.mark.parametrize("value", [None, {}, "x", 3])
def test_a_file_whose_parts_are_no_lists_is_refused(tmp_path: Path, data: dict[str, Any], part: str, value: Any):
    data[part] = value
    with pytest.raises(DataError, match=rf"coco\.json is no COCO file: its \['{part}'\] are no lists"):
        opened(tmp_path, data, skip=True)


def test_images_that_share_an_id_are_refused_or_left_out_with_their_annotations(tmp_path: Path, data: dict[str, Any]):
    data["images"][1]["id"] = data["images"][0]["id"]
    with pytest.raises(DataError, match=r"coco\.json: image id 100 occurs twice"):
        opened(tmp_path, data)
    found = opened(tmp_path, data, skip=True)
    assert [found[index].where.rpartition(" ")[2] for index in range(len(found))] == ["102", "103", "104", "105"]
    assert found.faults.counts["image id"] == 2


def test_equal_names_are_one_label(tmp_path: Path, data: dict[str, Any]):
    data["categories"][1]["name"] = " Red"
    found = opened(tmp_path, data)
    assert found.names == ("red", "blue", "white")
    assert [found.names[label] for label in found[1].labels] == ["red", "blue"]


def with_root(data: dict[str, Any], name: str) -> dict[str, Any]:
    """The data as Roboflow exports it, with a parent of all categories that is named after the project."""
    children = [one | {"supercategory": name} for one in data["categories"]]
    return data | {"categories": [{"id": 0, "name": name, "supercategory": "none"}, *children]}


@pytest.mark.parametrize("name", ["squares", "red"])
def test_the_root_category_of_roboflow_is_no_label(tmp_path: Path, data: dict[str, Any], name: str):
    assert opened(tmp_path, with_root(data, name)).names == sets.NAMES


def test_a_parent_that_has_boxes_of_its_own_is_a_label(tmp_path: Path, data: dict[str, Any]):
    data["annotations"][0]["category_id"] = 0
    assert opened(tmp_path, with_root(data, "squares")).names == ("squares", *sets.NAMES)


@pytest.mark.parametrize(("height", "width", "size"), [(60.0, 80.0, (60, 80)), (0, 0, None), (None, None, None)])
def test_sizes_may_be_floats_or_unknown(tmp_path: Path, data: dict[str, Any], height: Any, width: Any, size: Any):
    for image in data["images"]:
        image |= {"height": height, "width": width}
    assert opened(tmp_path, data)[0].size == size


def test_a_box_that_is_partly_outside_is_clipped(tmp_path: Path, data: dict[str, Any]):
    data["annotations"][0]["bbox"] = [70, 50, 30, 30]
    assert opened(tmp_path, data)[0].boxes_xyxy.tolist() == [[70, 50, 80, 60]]


def test_a_repeated_key_and_nan_in_an_entry_are_a_fault_of_that_entry(tmp_path: Path, data: dict[str, Any]):
    text = json.dumps(data)
    repeated = text.replace('"category_id": 10', '"category_id": 10, "category_id": 11', 1)
    unused = text.replace('"category_id": 10', '"category_id": 10, "score": NaN', 1)
    (tmp_path / "coco.json").write_text(unused)
    assert len(CocoSet(tmp_path / "coco.json", tmp_path)[0].boxes_xyxy) == 1
    (tmp_path / "coco.json").write_text(repeated)
    with pytest.raises(DataError, match="annotation id 0: a key occurs twice"):
        CocoSet(tmp_path / "coco.json", tmp_path)
    assert CocoSet(tmp_path / "coco.json", tmp_path, skip=True).faults.total == 1


def test_objects_are_kept_with_areas_and_crowds(tmp_path: Path, data: dict[str, Any]):
    data["annotations"][0] |= {"iscrowd": 1, "area": 7.5}
    objects = opened(tmp_path, data).objects(0)
    assert (objects.areas.tolist(), objects.crowds.tolist(), objects.labels.tolist()) == ([7.5], [True], [0])
    assert np.isnan(opened(tmp_path, data).objects(1).areas).all()


@pytest.mark.parametrize("spelling", ["1.png", "./1.png", "sub/../1.png"])
def test_a_picture_under_two_image_ids_is_named_or_left_out(tmp_path: Path, data: dict[str, Any], spelling: str):
    """Its objects are spread over the two, and each would count those of the other as false."""
    data["images"][0]["file_name"] = spelling
    with pytest.raises(DataError, match=r"image id 100: its file_name '.*1\.png' occurs twice"):
        opened(tmp_path, data)
    found = opened(tmp_path, data, skip=True)
    assert {Path(found[index].picture.where).name for index in range(len(found))} == {f"{n}.png" for n in range(2, 6)}
    assert found.faults.counts == {"image file_name": 2, "annotation image_id": 3}


def test_a_picture_may_have_several_captions(tmp_path: Path, data: dict[str, Any]):
    for image in data["images"][:2]:
        image |= {"file_name": "1.png", "caption": "look, a red square"}
    data["annotations"] = []
    assert len(opened(tmp_path, data)) == 6


@pytest.mark.parametrize(
    ("fault", "doubtful"),
    [
        ({"bbox": None}, {"white"}),
        ({"iscrowd": 2}, {"white"}),
        ({"category_id": None}, {"red", "green", "blue", "white"}),
        ({"category_id": float("nan")}, {"red", "green", "blue", "white"}),
        ({"category_id": 999}, set()),  # a category left out, which is none of the others
    ],
)
def test_category_of_an_annotation_left_out_is_not_said_to_be_absent(
    tmp_path: Path, data: dict[str, Any], fault: dict[str, Any], doubtful: set[str]
):
    white = next(one["id"] for one in data["categories"] if one["name"] == "white")
    image = data["images"][1]["id"]
    data["annotations"] = [
        one for one in data["annotations"] if one["image_id"] != image or one["category_id"] != white
    ]
    present = {one["category_id"] for one in data["annotations"] if one["image_id"] == image}
    data["annotations"].append({"id": 77, "image_id": image, "category_id": white, "bbox": [1, 1, 9, 9]} | fault)
    record = opened(tmp_path, data, skip=True)[1]
    assert isinstance(record, DetectionRecord)
    shown = {one["name"] for one in data["categories"] if one["id"] in present}
    known = range(len(record.names)) if record.absent is None else record.absent
    assert {record.names[label] for label in known} - shown == {*record.names} - shown - doubtful
