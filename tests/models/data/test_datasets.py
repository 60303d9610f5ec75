"""Each format of a recipe opens as the set it is."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from models.data.captions import CaptionFolder
from models.data.coco import CocoSet
from models.data.images import DataError
from models.data.odvg import OdvgSet
from models.data.shards import ShardStream
from tests.models.data import annotated_sets as sets

CAPTIONS = {"format": "captions", "path": "captions"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    sets.coco(folder / "coco")
    sets.odvg(folder / "odvg", 9)
    sets.captions(folder / "captions")
    sets.shards(folder / "shards")
    return folder


def test_each_format_opens_as_the_set_it_is(folder: Path):
    tables = [
        {"format": "coco", "annotations": "coco/coco.json", "pictures": "coco/pictures"},
        {
            "format": "odvg",
            "annotations": "odvg/odvg.jsonl",
            "pictures": "odvg/pictures",
            "label_map": "odvg/labels.json",
        },
        CAPTIONS,
        {"format": "shards", "shards": ["shards/*.tar"], "weight": 3},
    ]
    opened = sets.opened(tables, folder)
    assert [type(one.records) for one in opened] == [CocoSet, OdvgSet, CaptionFolder, ShardStream]
    assert [one.weight for one in opened] == [6, 9, 8, 3]  # by their number of records, unless told


def test_a_set_alone_needs_no_weight_and_one_that_is_not_counted_does_beside_others(folder: Path):
    shards = {"format": "shards", "shards": "shards/*.tar"}
    assert sets.opened([shards], folder)[0].weight == 1.0
    with pytest.raises(DataError, match=r"000\.tar and 2 more: the set needs a weight"):
        sets.opened([CAPTIONS, shards], folder)


def test_a_set_whose_pictures_are_elsewhere_is_refused_at_once(folder: Path):
    coco = {"format": "coco", "annotations": "coco/coco.json", "pictures": "nowhere"}
    with pytest.raises(DataError, match=r"nowhere/0\.png: the picture cannot be read"):
        sets.opened([coco], folder)
    assert sets.opened([coco | {"faulty": "skip"}], folder)[0].skip


def test_a_set_without_records_is_refused(folder: Path, tmp_path: Path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(DataError, match=r"empty\.jsonl has no record"):
        sets.opened([{"format": "captions", "path": "empty.jsonl"}], tmp_path)


@pytest.mark.parametrize("wrong", [{"format": "coco"}, CAPTIONS | {"pictues": "x"}, CAPTIONS | {"weight": 0}])
def test_a_table_that_does_not_fit_its_format_is_refused(wrong: dict[str, object]):
    with pytest.raises(ValidationError):
        sets.TABLES.validate_python([wrong])
