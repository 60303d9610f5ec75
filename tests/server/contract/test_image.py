"""Preprocessing sizes and padding; equality with the official pixels is in tests/parity."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from server.contract.image import canvas_size, pad_batch, preprocess, resized_size
from server.contract.manifest import Buckets, Preprocessing

UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
CROP = Preprocessing(resize="shorter_crop", shorter=32, resample="bicubic", **UNIT)
FIT = Preprocessing(resize="shorter_longer", shorter=80, longer=133, **UNIT)
SIDE = st.integers(1, 700)


@given(height=SIDE, width=SIDE)
def test_crop_is_always_the_square_asked_for(height, width):
    assert preprocess(Image.new("RGB", (width, height)), CROP).shape == (3, 32, 32)


@given(height=SIDE, width=SIDE)
def test_longer_side_stays_near_its_bound_and_no_side_vanishes(height, width):
    new_height, new_width = resized_size(height, width, FIT)
    assert min(new_height, new_width) >= 1
    # round() of the shorter side, then int() of the longer: at most half a shorter pixel's worth above the bound.
    assert max(new_height, new_width) <= 133 + max(height, width) / min(height, width)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16", "1"])
@pytest.mark.parametrize("after", [False, True])
def test_every_colour_mode_becomes_three_channels(mode, after):
    rules = CROP.model_copy(update={"rgb_after_resize": after})
    assert preprocess(Image.new(mode, (40, 50)), rules).shape == (3, 32, 32)


def test_bgr_is_rgb_reversed():
    image = Image.new("RGB", (40, 40), (10, 20, 30))
    bgr = preprocess(image, CROP.model_copy(update={"channels": "bgr", "scale": 1.0}))
    assert bgr[:, 0, 0].tolist() == [30, 20, 10]


@given(sizes=st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4))
def test_padding_keeps_pixels_and_masks_the_rest(sizes):
    pixels = [np.full((3, h, w), 1 + i, np.float32) for i, (h, w) in enumerate(sizes)]
    values, mask = pad_batch(pixels, (64, 64))
    for row, image in enumerate(pixels):
        _, height, width = image.shape
        assert mask[row].sum() == height * width
        np.testing.assert_array_equal(values[row, :, :height, :width], image)
        assert not values[row, :, ~mask[row]].any()


def test_padding_writes_over_whatever_its_destination_holds():
    pixels = [np.full((3, h, w), 7, np.float32) for h, w in ((64, 64), (64, 40), (30, 64), (1, 1))]
    out = np.full((4, 3, 64, 64), np.nan, np.float32), np.ones((4, 64, 64), np.bool_)
    values, mask = pad_batch(pixels, (64, 64), out=out)
    assert values is out[0]
    assert mask is out[1]
    for ours, new in zip((values, mask), pad_batch(pixels, (64, 64)), strict=True):
        np.testing.assert_array_equal(ours, new)


@given(height=SIDE, width=SIDE, multiple=st.integers(1, 64))
def test_canvas_holds_the_image_and_depends_on_it_alone(height, width, multiple):
    canvas = canvas_size(height, width, Buckets(pixel_multiple=multiple))
    for side, padded in zip((height, width), canvas, strict=True):
        assert padded >= side
        assert padded - side < multiple
        assert padded % multiple == 0


@pytest.mark.parametrize("size", [(90, 30), (30, 90), (40, 40)])
@pytest.mark.parametrize("crop", [None, 24])
def test_square_takes_any_shape_whole_and_may_be_cropped(size, crop):
    rules = Preprocessing(resize="square", shorter=32, crop=crop, resample="bilinear", **UNIT)
    image = Image.effect_noise(size, 50).convert("RGB")
    wanted = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR), np.float32) / 255
    edge = (32 - (crop or 32)) // 2
    np.testing.assert_allclose(
        preprocess(image, rules), wanted[edge : 32 - edge, edge : 32 - edge].transpose(2, 0, 1), atol=1e-6
    )


def test_crop_is_cut_from_a_larger_resized_image():
    rules = CROP.model_copy(update={"shorter": 40, "crop": 32})
    image = Image.effect_noise((80, 50), 50).convert("RGB")
    resized = image.resize((64, 40), Image.Resampling.BICUBIC)
    np.testing.assert_allclose(
        preprocess(image, rules),
        np.asarray(resized.crop((16, 4, 48, 36)), np.float32).transpose(2, 0, 1) / 255,
        atol=1e-6,
    )


@pytest.mark.parametrize("resample", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_resampling_is_pillows_by_its_name(resample):
    image = Image.effect_noise((50, 50), 50).convert("RGB")
    pixels = preprocess(image, CROP.model_copy(update={"resample": resample}))
    wanted = np.asarray(image.resize((32, 32), Image.Resampling[resample.upper()]), np.float32) / 255
    np.testing.assert_allclose(pixels, wanted.transpose(2, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    "rules", [{"resize": "shorter_longer", "longer": 64, "crop": 16}, {"resize": "square", "crop": 33}]
)
def test_crop_that_is_no_part_of_the_image_is_refused(rules):
    with pytest.raises(ValueError, match="it is no part of a square"):
        Preprocessing(shorter=32, **rules, **UNIT)
