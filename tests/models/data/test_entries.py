import math
from typing import Any, ClassVar

import pytest
from pydantic import Field

from models.data.entries import (
    Area,
    DataEntry,
    FilePath,
    Flag,
    FourNumbers,
    Id,
    SizedEntry,
    Spans,
    Words,
    box_array,
    check_in_picture,
    checked,
    checked_spans,
    clip_boxes,
    fitted_box,
)
from models.data.faults import RecordFault
from models.data.text_files import parse_json

HUGE = 10**400


class Thing(SizedEntry):
    kind: ClassVar[str] = "thing"
    id: Id = Field(0, description="an id")
    name: Words = Field("x", description="a name")
    file: FilePath = Field("a", description="a path")
    bbox: FourNumbers = Field([0, 0, 1, 1], description="four numbers")
    area: Area | None = Field(None, description="an area")
    crowd: Flag = Field(False, description="0 or 1")
    spans: Spans = Field([[0, 1]], description="spans")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("id", value) for value in (None, True, 1.5, math.nan, [1], {}, "\ud800")),
        *(("name", value) for value in (None, "", " \n", 7, True, ["a"], "\udcff")),
        *(("file", value) for value in (None, "", " ", 7, "a\0b", ["a"])),
        *(("bbox", value) for value in (None, "1234", [], [1, 2, 3], [1, 2, 3, 4, 5], {"0": 1}, [[1, 2, 3, 4]], True)),
        *(("bbox", [1, 2, 3, value]) for value in (None, "4", True, math.nan, math.inf, -math.inf, HUGE, 1e300, [4])),
        *(("area", value) for value in ("12", True, math.nan, math.inf, -1, HUGE, 1e11, [1])),
        *(("crowd", value) for value in (2, -1, "0", [0], math.nan, 0.5)),
        *(("spans", value) for value in (None, [], "ab", [[1]], [[1, 2, 3]], [["0", "1"]], [[0, 1.5]], [[0, True]])),
        *(("height", value) for value in (-4, True, "4", 4.5, math.nan, math.inf, [4])),
    ],
)
def test_a_field_of_another_kind_is_named_with_its_value(field: str, value: Any):
    with pytest.raises(RecordFault, match=f"^here: {field} is .*; [a-z0-9]") as refused:
        checked(Thing, {"width": 5, "height": 4, field: value}, "here")
    assert refused.value.kind == f"thing {field}"
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("field", "value", "taken"),
    [
        ("id", 3.0, 3),
        ("id", "3", "3"),
        ("bbox", [1, 2.5, -3, 0], [1, 2.5, -3, 0]),
        ("crowd", None, False),
        ("crowd", 1, True),
        ("crowd", True, True),
        ("area", 0, 0.0),
        ("spans", [[0, 2.0]], [[0, 2]]),
    ],
)
def test_usual_spellings_are_taken(field: str, value: Any, taken: Any):
    assert getattr(checked(Thing, {field: value}, "here"), field) == taken


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(4, 5, (4, 5)), (320.0, 240.0, (320, 240)), (None, None, None), (0, 0, None), (0.0, None, None)],
)
def test_a_size_is_two_positive_integers_or_unknown(height: Any, width: Any, size: Any):
    assert checked(Thing, {"height": height, "width": width}, "here").size == size


def test_one_side_alone_is_refused():
    with pytest.raises(RecordFault, match="here: height and width are both known, or neither"):
        checked(Thing, {"height": 4}, "here")


@pytest.mark.parametrize("value", [None, 7, "a", [], [{}]])
def test_an_entry_is_an_object(value: Any):
    with pytest.raises(RecordFault, match=r"^here is .*; an object is expected") as refused:
        checked(Thing, value, "here")
    assert refused.value.kind == "thing entry"


def test_a_missing_field_and_a_repeated_one_are_named():
    class Strict(DataEntry):
        kind: ClassVar[str] = "thing"
        id: Id = Field(description="an id is expected")

    with pytest.raises(RecordFault, match=r"^here: id is missing; an id is expected"):
        checked(Strict, {}, "here")
    with pytest.raises(RecordFault, match=r"^here: a key occurs twice"):
        checked(Strict, parse_json('{"id": 1, "id": 2}', "file"), "here")


def test_a_box_is_clipped_to_its_picture():
    assert fitted_box((-5, -5, 10, 10), (60, 80), "here", kind="bbox") == (0, 0, 10, 10)
    assert fitted_box((70, 50, 90, 70), (60, 80), "here", kind="bbox") == (70, 50, 80, 60)
    assert fitted_box((70, 50, 90, 70), None, "here", kind="bbox") == (70, 50, 90, 70)


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (5, 9, 9, 5), (9, 5, 5, 9), (100, 5, 100 + 1e-6, 9)])
@pytest.mark.parametrize("size", [(60, 80), None])
def test_a_box_without_area_is_refused(box: tuple[float, float, float, float], size: tuple[int, int] | None):
    with pytest.raises(RecordFault, match=r"here: bbox is x0 .*; a positive width and height are expected"):
        fitted_box(box, size, "here", kind="bbox")


@pytest.mark.parametrize("box", [(80, 0, 90, 5), (-9, 0, 0, 5), (0, 60, 5, 70), (0, -9, 5, -1), (200, 200, 300, 300)])
def test_a_box_outside_its_picture_is_refused(box: tuple[float, float, float, float]):
    with pytest.raises(RecordFault, match=r"here: bbox is .*outside the picture of 60 x 80"):
        fitted_box(box, (60, 80), "here", kind="bbox")
    with pytest.raises(RecordFault, match="outside the picture"):
        check_in_picture(box_array([[0, 0, 5, 5], box]), (60, 80), "here")


def test_boxes_are_cut_to_the_picture_and_empty_ones_left_out():
    boxes = box_array([[-5, -5, 10, 10], [70, 50, 90, 70], [90, 0, 95, 5], [5, 5, 5, 9], [9, 9, 5, 5]])
    cut, kept = clip_boxes(boxes, (60, 80))
    assert cut[kept].tolist() == [[0, 0, 10, 10], [70, 50, 80, 60]]
    assert kept.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("spans", [[[2, 1]], [[0, 99]], [[-1, 2]], [[3, 3]]])
def test_spans_lie_in_their_caption(spans: list[list[int]]):
    assert checked_spans([[0, 5], [6, 7]], "a red cat", "here") == ((0, 5), (6, 7))
    with pytest.raises(RecordFault, match="here: tokens_positive"):
        checked_spans(spans, "a red cat", "here")
