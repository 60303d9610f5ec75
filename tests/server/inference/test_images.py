"""Decoding: upright, bounded before decoding, and every fault named with the image it is in."""

import contextlib
import io
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from server.contract.image import preprocess
from server.contract.manifest import Preprocessing
from server.errors import BrokenImage, ImageTooLarge, RequestFault, UnsupportedImage
from server.inference import images
from server.inference.images import decode
from tests.server.fakes import picture

RULES = Preprocessing(resize="shorter_crop", shorter=8, rgb_after_resize=True, mean=(0, 0, 0), std=(1, 1, 1))


def read(data, max_pixels=10_000):
    return decode(data, name="image 2 of 3", max_pixels=max_pixels)


def encoded(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_accepted_formats_decode(form):
    assert read(picture(form=form)).size == (40, 30)


def test_other_format_is_refused():
    with pytest.raises(UnsupportedImage, match=r"this server reads: JPEG, PNG, WEBP, GIF, BMP, TIFF$"):
        read(picture(form="TGA"))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
def test_every_accepted_mode_can_be_preprocessed(mode):
    image = Image.new("RGB", (40, 30), "red").convert("L" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 256)
    decoded = read(encoded(image, "TIFF" if mode == "CMYK" else "PNG"))
    assert preprocess(decoded, RULES).shape == (3, 8, 8)


def test_mode_is_left_to_preprocessing():
    assert read(picture(mode="P")).mode == "P"


def test_sixteen_bit_grey_keeps_its_brightness():
    image = Image.fromarray(np.full((30, 40), 128 * 256, np.uint16))
    assert np.asarray(read(encoded(image, "PNG")).convert("RGB")).mean() == 128


def test_float_picture_is_refused_by_mode():
    with pytest.raises(BrokenImage, match="image 2 of 3 has colour mode F"):
        read(encoded(Image.new("F", (4, 4)), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation):
    upright = Image.new("RGB", (40, 30), "black")
    upright.paste("white", (0, 0, 20, 15))  # top left is bright
    undo = {
        1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
    }[orientation]  # fmt: skip
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = read(encoded(stored, "PNG", exif=exif))
    assert decoded.size == (40, 30)
    assert np.array_equal(np.asarray(decoded), np.asarray(upright))


def test_pixels_are_bounded_before_decoding():
    header = picture(size=(200, 100))[:60]  # the size is known, the pixels are not there
    with pytest.raises(ImageTooLarge, match="image 2 of 3 is 200 x 100 = 20000 pixels, at most 10000"):
        read(header)


def test_decompression_bomb_is_refused():
    bomb = bytearray(picture(size=(1, 1)))
    bomb[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(RequestFault):
        read(bytes(bomb), max_pixels=100_000_000)


def test_thin_strip_is_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_ASPECT_RATIO", 20)
    with pytest.raises(ImageTooLarge, match="one side may be at most 20 times the other"):
        read(picture(size=(300, 2)))


def test_empty_file_is_refused():
    with pytest.raises(BrokenImage, match="image 2 of 3 is empty"):
        read(b"")


@pytest.mark.parametrize("data", [b"hello", b"%PDF-1.7", b"\x89PNG\r\n", b"<svg/>"])
def test_not_an_image_is_refused_with_the_formats(data):
    with pytest.raises(UnsupportedImage, match=r"image 2 of 3 is not a picture.*JPEG, PNG"):
        read(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP"])
def test_truncated_image_is_refused(form):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8))
    whole = encoded(noise, form)
    with pytest.raises(RequestFault, match="image 2 of 3"):
        read(whole[: len(whole) // 2])


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_is_refused(form):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    moving = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    with pytest.raises(BrokenImage, match="image 2 of 3 is animated or has several pages"):
        read(moving)


def test_animation_of_a_million_frames_is_refused_at_its_second():
    whole = encoded(Image.new("P", (1, 1)), "GIF")
    start = whole.index(b"\x2c")
    data = whole[:start] + whole[start:-1] * 1_000_000 + b";"
    started = time.monotonic()
    with pytest.raises(BrokenImage, match="is animated"):
        read(data)
    assert time.monotonic() - started < 2


def test_jpeg_of_several_pictures_shows_the_first():
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue")]
    several = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    red, _, blue = read(several).getpixel((10, 10))
    assert red > 200 > 50 > blue


WHOLE = [picture(form=form) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")]


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of damaged metadata
@settings(max_examples=200, deadline=None)
@given(st.sampled_from(WHOLE), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6), st.data())
def test_damaged_image_decodes_or_is_refused(whole, changes, data):
    damaged = bytearray(whole)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    cut = data.draw(st.integers(0, len(damaged)))
    with contextlib.suppress(RequestFault):
        assert preprocess(read(bytes(damaged[:cut])), RULES).shape == (3, 8, 8)
