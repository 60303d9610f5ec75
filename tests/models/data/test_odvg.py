import json
from pathlib import Path
from typing import Any

import pytest

from models.data.images import DataError
from models.data.odvg import OdvgSet
from models.data.records import DetectionRecord, GroundingRecord
from tests.models.data import annotated_sets as sets


@pytest.fixture
def lines(tmp_path: Path) -> list[dict[str, Any]]:
    return sets.odvg(tmp_path)


def opened(folder: Path, lines: list[dict[str, Any]] | None = None, *, skip: bool = False, labels=True) -> OdvgSet:
    if lines is not None:
        sets.write_lines(folder / "odvg.jsonl", lines)
    label_map = folder / "labels.json" if labels else None
    return OdvgSet(folder / "odvg.jsonl", folder / "pictures", label_map=label_map, skip=skip)


def test_detection_and_grounding_lines_stand_in_one_file(tmp_path: Path, lines: list[dict[str, Any]]):
    found = opened(tmp_path)
    grounded, detected = found[1], found[2]
    assert isinstance(grounded, GroundingRecord)
    assert isinstance(detected, DetectionRecord)
    phrases = [grounded.caption[start:end] for region in grounded.regions for start, end in region.spans]
    assert phrases == ["a green square", "a blue square"]
    assert [detected.names[label] for label in detected.labels] == [sets.picture(2)[1][0][0]]
    assert detected.names == sets.NAMES


def test_phrases_without_spans_are_looked_for_as_whole_words(tmp_path: Path, lines: list[dict[str, Any]]):
    lines[0]["grounding"] = {
        "caption": "cartoon of a Car",
        "regions": [{"bbox": [[1, 2, 30, 40], [5, 6, 7, 8]], "phrase": "car"}],
    }
    record = opened(tmp_path, lines)[0]
    assert isinstance(record, GroundingRecord)
    assert record.regions[0].spans == ((13, 16),)
    assert record.regions[0].boxes_xyxy.tolist() == [[1, 2, 30, 40], [5, 6, 7, 8]]


def test_without_a_label_map_the_categories_that_occur_are_the_sets(tmp_path: Path, lines: list[dict[str, Any]]):
    for line, name in zip((lines[2], lines[5]), ("cat", "dog"), strict=True):
        for instance in line["detection"]["instances"]:
            del instance["label"]
            instance["category"] = name
    found = opened(tmp_path, lines, labels=False)
    assert found.names == ("cat", "dog")
    record = found[2]
    assert isinstance(record, DetectionRecord)
    assert record.names == found.names


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"filename": "0.png"}, "has neither of 'detection' and 'grounding'"),
        ({"grounding": {"caption": "a", "regions": []}}, "filename is missing; a path is expected"),
        (
            {"filename": "0.png", "grounding": {"caption": " ", "regions": []}},
            "caption is ' '; a text",
        ),
        ({"filename": "0.png", "grounding": {"caption": "a", "regions": None}}, "regions is None; a list of objects"),
        (
            {
                "filename": "0.png",
                "grounding": {"caption": "a cat", "regions": [{"bbox": [0, 0, 1, 1], "phrase": "at"}]},
            },
            "the phrase 'at' is not in the caption",
        ),
        ({"filename": "0.png", "detection": {"instances": [{"bbox": [0, 0, 1, 1], "label": 9}]}}, "label 9 is not in"),
        (
            {"filename": "0.png", "detection": {"instances": [{"bbox": [0, 0, 1], "label": 0}]}},
            "bbox is .*; four",
        ),
        (
            {"filename": "0.png", "height": -1, "width": 2, "detection": {"instances": []}},
            "height is -1; a",
        ),
    ],
)
def test_a_faulty_line_is_named_or_skipped(
    tmp_path: Path, lines: list[dict[str, Any]], entry: dict[str, Any], message: str
):
    lines[3] = entry
    with pytest.raises(DataError, match=rf"odvg\.jsonl, line 4.*{message}"):
        opened(tmp_path, lines)
    found = opened(tmp_path, lines, skip=True)
    assert (len(found), found.faults.total) == (5, 1)


def test_a_line_that_is_no_json_is_named_by_its_number_blank_ones_counted(tmp_path: Path, lines: list[dict[str, Any]]):
    (tmp_path / "odvg.jsonl").write_text(json.dumps(lines[0]) + "\n\n{oops\n")
    with pytest.raises(DataError, match=r"odvg\.jsonl, line 3 is no JSON"):
        opened(tmp_path)


@pytest.mark.parametrize("box", [[98, 229, 36, 154], [5, 5, 5, 9], [400, 300, 450, 350], [None] * 4, ["1"] * 4])
def test_boxes_that_are_inverted_empty_or_outside_are_named(
    tmp_path: Path, lines: list[dict[str, Any]], box: list[Any]
):
    lines[2]["detection"]["instances"][0]["bbox"] = box
    lines[0]["grounding"]["regions"][0]["bbox"] = [[1, 2, 3, 4], box]
    for part in (lines[:1], lines[1:]):
        with pytest.raises(DataError, match=r"odvg\.jsonl, line \d: bbox is "):
            opened(tmp_path, part)
    assert opened(tmp_path, lines, skip=True).faults.total == 2


def test_a_line_left_out_adds_no_category(tmp_path: Path, lines: list[dict[str, Any]]):
    good = {"bbox": [1, 1, 9, 9], "category": "cat"}
    bad = {"bbox": None, "category": "dog"}
    lines = [
        {"filename": "0.png", "detection": {"instances": [{**good, "category": "bird"}, bad]}},
        {"filename": "1.png", "detection": {"instances": [good, {**good, "category": " Cat"}]}},
    ]
    found = opened(tmp_path, lines, skip=True, labels=False)
    assert (found.names, found[0].labels.tolist()) == (("cat",), [0, 0])


def test_labels_of_one_name_are_one_category(tmp_path: Path, lines: list[dict[str, Any]]):
    (tmp_path / "labels.json").write_text('{"0": "red", "1": "Red", "2": "blue", "3": "white"}')
    assert opened(tmp_path).names == ("red", "blue", "white")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"0": null}', "the name of '0' is None"),
        ('{"0": " "}', "the name of '0' is ' '"),
        ('{"0": "red", "1": "\\ud800"}', r"the name of '1' is '.ud800'"),
        ('["red"]', "holds a list"),
        ('{"0": "red", "0": "blue"}', "a key occurs twice"),
        ("{", "is no JSON"),
    ],
)
def test_a_faulty_label_map_is_named(tmp_path: Path, lines: list[dict[str, Any]], text: str, message: str):
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(DataError, match=rf"labels\.json.*{message}"):
        opened(tmp_path, skip=True)


def test_a_line_of_both_kinds_is_refused(tmp_path: Path, lines: list[dict[str, Any]]):
    lines[0]["detection"] = {"instances": []}
    with pytest.raises(DataError, match="line 1 has both of 'detection' and 'grounding'"):
        opened(tmp_path, lines)


def test_a_picture_in_two_detection_lines_is_named_or_left_out_with_its_categories(tmp_path: Path):
    instances = [{"bbox": [1, 1, 9, 9], "category": name} for name in ("cat", "dog", "bird")]
    files = ("0.png", "./0.png", "1.png")
    lines = [{"filename": file, "detection": {"instances": [one]}} for file, one in zip(files, instances, strict=True)]
    sets.odvg(tmp_path)
    with pytest.raises(DataError, match=r"odvg\.jsonl, line 1: its picture '0\.png' occurs twice"):
        opened(tmp_path, lines, labels=False)
    found = opened(tmp_path, lines, labels=False, skip=True)
    assert (len(found), found.names, dict(found.faults.counts)) == (1, ("bird",), {"line filename": 2})


def test_a_picture_may_have_several_captions(tmp_path: Path, lines: list[dict[str, Any]]):
    assert len(opened(tmp_path, [lines[0], lines[0]])) == 2
