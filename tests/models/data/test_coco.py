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
    assert found.skipped == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"category_id": 99}, "annotation id 0: its category id 99 is not among the categories"),
        ({"image_id": 7}, "annotation id 0: its image id 7 is not among the images"),
        ({"bbox": [1, 2, 3]}, "annotation id 0: a box is"),
        ({"bbox": [1, 2, 3, float("nan")]}, "annotation id 0: a box is"),
        ({"bbox": "1 2 3 4"}, "annotation id 0: a box is"),
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
    assert found.skipped == 1
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
