import pytest

from models.data.annotation_checks import box_array, checked_box, checked_size, checked_spans, clip_boxes, find_phrase
from models.data.images import DataError


@pytest.mark.parametrize("values", [[1, 2, 3], "1234", [1, 2, 3, float("nan")], [1, 2, 3, True], None])
def test_a_box_is_four_finite_numbers(values: object):
    assert checked_box([1, 2.5, 3, 4], "here") == (1.0, 2.5, 3.0, 4.0)
    with pytest.raises(DataError, match="here: a box is"):
        checked_box(values, "here")


def test_a_size_is_two_positive_integers_or_none():
    assert checked_size({"height": 4, "width": 5}, "here") == (4, 5)
    assert checked_size({}, "here") is None
    for entry in ({"height": 4}, {"height": 0, "width": 5}, {"height": 4.5, "width": 5}):
        with pytest.raises(DataError, match="here: height is"):
            checked_size(entry, "here")


def test_boxes_are_cut_to_the_picture_and_empty_ones_left_out():
    boxes = box_array([[-5, -5, 10, 10], [70, 50, 90, 70], [90, 0, 95, 5], [5, 5, 5, 9], [9, 9, 5, 5]])
    cut, kept = clip_boxes(boxes, (60, 80))
    assert cut[kept].tolist() == [[0, 0, 10, 10], [70, 50, 80, 60]]
    assert kept.tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("spans", [[], [[2, 1]], [[0, 99]], [[-1, 2]], "ab", None])
def test_spans_lie_in_their_caption(spans: object):
    assert checked_spans([[0, 5], [6, 7]], "a red cat", "here") == ((0, 5), (6, 7))
    with pytest.raises(DataError, match="here: tokens_positive"):
        checked_spans(spans, "a red cat", "here")


def test_a_phrase_is_found_as_whole_words_in_any_case():
    assert find_phrase("Cat", "a catalogue, a cat", "here") == ((15, 18),)
    for phrase in ("at", " "):
        with pytest.raises(DataError, match=f"here: the phrase '{phrase}' is not in the caption"):
            find_phrase(phrase, "a cat", "here")
