"""Drawings: the picture's size is kept, boxes are where they should be, tags stay inside."""

import io
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from server.inference import drawing
from server.inference.drawing import (
    MAX_TAGS,
    Mark,
    _fit_text,
    _inside,
    _Occupancy,
    _Style,
    _tag,
    draw,
    label_colour,
    text_colour,
)


def detection(box=(20.0, 40.0, 80.0, 90.0), label="a dog", label_id=0, score=0.9):
    return Mark(box, label, label_id, score)


def drawn(image, *detections):
    return np.asarray(Image.open(io.BytesIO(draw(image, detections))))


def test_drawing_keeps_the_size_and_the_input():
    image = Image.new("RGB", (120, 100), "grey")
    assert drawn(image, detection()).shape == (100, 120, 3)
    assert image.getextrema() == ((128, 128),) * 3


def test_box_is_drawn_in_its_labels_colour():
    pixels = drawn(Image.new("RGB", (120, 100), "white"), detection())
    assert tuple(pixels[70, 20]) == tuple(pixels[90, 50]) == label_colour(0)
    assert tuple(pixels[70, 50]) == (255, 255, 255)


def test_no_detection_leaves_the_picture():
    assert (drawn(Image.new("RGB", (30, 20), "white")) == 255).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "CMYK"])
def test_every_mode_can_be_drawn_on(mode):
    assert drawn(Image.new(mode, (60, 50)), detection()).shape == (50, 60, 3)


def test_neighbouring_labels_have_distant_colours():
    colours = np.asarray([label_colour(label_id) for label_id in range(12)], float)
    distances = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 1000 * np.eye(12)
    assert distances.min() > 40


def test_ink_can_be_read_on_every_colour():
    def luminance(colour):
        return float(np.dot([0.2126, 0.7152, 0.0722], (np.asarray(colour) / 255) ** 2.2))

    for label_id in range(40):
        lights = sorted([luminance(label_colour(label_id)), luminance(text_colour(label_colour(label_id)))])
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 3, "WCAG's contrast for large text"


@settings(max_examples=60, deadline=None)
@given(
    st.integers(120, 600),
    st.integers(40, 400),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.text(min_size=1, max_size=60).filter(str.strip),
)
def test_tag_stays_inside_and_has_its_score(width, height, corners, label):
    x0, x1 = sorted((corners[0] * width, corners[1] * width))
    y0, y1 = sorted((corners[2] * height, corners[3] * height))
    image = Image.new("RGB", (width, height))
    style = _Style.of(image)
    tag = _tag(detection((x0, y0, x1, y1), label), style, image.size, _Occupancy(image.size, style.padding))
    assert tag.rect[0] >= 0
    assert tag.rect[1] >= 0
    assert tag.rect[2] <= width
    assert tag.rect[3] <= height
    assert tag.text.endswith("0.90")
    draw(image, [detection((x0, y0, x1, y1), label)])


def test_tags_of_boxes_on_one_place_do_not_cover_each_other():
    image = Image.new("RGB", (400, 300))
    style = _Style.of(image)
    taken, occupancy = [], _Occupancy(image.size, style.padding)
    for label_id in range(3):
        tag = _tag(detection((100, 100, 300, 200), f"label {label_id}"), style, image.size, occupancy)
        assert all(
            tag.rect[2] <= other[0] or other[2] <= tag.rect[0] or tag.rect[3] <= other[1] or other[3] <= tag.rect[1]
            for other in taken
        )
        taken.append(tag.rect)


def crowd(count):
    """`count` marks at places of a picture of 640 x 480, the best last."""
    rng = np.random.default_rng(0)
    corners = rng.uniform((0, 0), (560, 400), (count, 2))
    return [Mark((x, y, x + 80, y + 80), f"label {i}", i, i / count) for i, (x, y) in enumerate(corners.tolist())]


def test_ten_thousand_marks_take_time_in_proportion():
    def seconds(count):
        started = time.process_time()
        draw(Image.new("RGB", (640, 480)), crowd(count))
        return time.process_time() - started

    seconds(10)
    assert seconds(10 * MAX_TAGS // 2) < 15 * min(seconds(MAX_TAGS // 2) for _ in range(2))


def test_best_marks_have_tags_however_many_there_are(monkeypatch):
    monkeypatch.setattr(drawing, "MAX_TAGS", 1)
    low, best = detection((10, 60, 90, 90), label_id=1, score=0.2), detection((110, 60, 190, 90), label_id=2)
    pixels = drawn(Image.new("RGB", (200, 100), "white"), low, best)
    assert (pixels[50, 112:118] == label_colour(2)).all()
    assert (pixels[50, 12:18] == 255).all()


@pytest.mark.parametrize("width", range(20, 200, 9))
def test_label_is_cut_to_the_longest_that_fits(width):
    style = _Style.of(Image.new("RGB", (320, 320)))
    text, box = _fit_text("a rather long label 0.90", "a rather long label", style, width)
    assert box == style.font.getbbox(text)
    if text.endswith("… 0.90"):
        longer = "a rather long label"[: len(text) - len("… 0.90") + 2].rstrip() + "… 0.90"
        assert style.font.getbbox(longer)[2] + 2 * style.padding > width


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (16, 16), (800, 9)])
def test_tiny_pictures_can_be_drawn_on(size):
    assert drawn(Image.new("RGB", size), detection((0.0, 0.0, *map(float, size)))).shape == (size[1], size[0], 3)


def test_corner_is_moved_inside():
    assert _inside((-5, 95), (20, 10), (100, 100)) == (0, 90, 20, 100)
