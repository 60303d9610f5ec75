import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from models.data.augmentation import (
    DetectorAugmentation,
    SquareAugmentation,
    augment,
    jitter_colours,
    mirrorable,
    random_square,
)
from models.data.entries import box_array

BOX = (10, 20, 50, 60)


def marked(width: int = 160, height: int = 120) -> Image.Image:
    """A black picture with a white box at `BOX`."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = 255
    return Image.fromarray(pixels)


def white(image: Image.Image) -> list[int]:
    rows, columns = np.nonzero(np.asarray(image)[..., 0] > 128)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def change(seed: int, **options):
    mirror, shorter = options.pop("mirror", True), options.pop("shorter", 800)
    rules = DetectorAugmentation(**{"flip": 0.0, "crop": 0.0, **options})
    return augment(marked(), box_array([BOX]), rules, mirror=mirror, shorter=shorter, rng=np.random.default_rng(seed))


def test_a_mirrored_picture_has_mirrored_boxes():
    found = change(0, flip=1.0)
    assert found.boxes_xyxy.tolist() == [[110, 20, 150, 60]]
    assert white(found.image) == [110, 20, 150, 60]


def test_what_speaks_of_sides_is_not_mirrored():
    assert change(0, flip=1.0, mirror=False).boxes_xyxy.tolist() == [list(BOX)]
    assert not mirrorable("a dog", "the cat on the Left")
    assert not mirrorable("the leftmost chair")
    assert mirrorable("a bright light", "copyright")


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_boxes_follow_the_cut_and_those_cut_off_are_left_out(seed: int):
    found = change(seed, crop=1.0, flip=0.5)
    if len(found.rows):
        assert found.boxes_xyxy[0].tolist() == white(found.image)
    else:
        assert not (np.asarray(found.image) > 128).any()


@pytest.mark.parametrize("shorter", [800, 64])
def test_a_cut_is_as_large_as_the_published_sizes_say(shorter: int):
    image, sides = Image.new("RGB", (1600, 1200)), []
    for seed in range(60):
        rules = DetectorAugmentation(flip=0.0, crop=1.0)
        found = augment(image, box_array([]), rules, mirror=True, shorter=shorter, rng=np.random.default_rng(seed))
        sides += [found.image.height / 1200]
    # Of a picture resized to 400, 500 or 600, from 384 pixels up to 600.
    assert min(sides) >= 384 / 600 - 0.01
    assert max(sides) == pytest.approx(1.0, abs=0.02)
    assert len({round(side, 2) for side in sides}) > 10


def test_colours_change_within_their_bound_and_without_one_not_at_all():
    image = Image.new("RGB", (4, 4), (100, 100, 100))
    assert jitter_colours(image, 0.0, np.random.default_rng(0)) is image
    values = [jitter_colours(image, 0.2, np.random.default_rng(seed)).getpixel((0, 0))[0] for seed in range(20)]
    assert all(79 <= value <= 121 for value in values)
    assert len(set(values)) > 5


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), width=st.integers(1, 90), height=st.integers(1, 90))
def test_squares_hold_the_share_of_the_picture_that_is_asked(seed: int, width: int, height: int):
    cut = random_square(
        Image.new("RGB", (width, height)), SquareAugmentation(crop=0.5), mirror=True, rng=np.random.default_rng(seed)
    )
    assert cut.width == cut.height
    assert 0.5**0.5 * min(width, height) - 1 <= cut.width <= min(width, height)
