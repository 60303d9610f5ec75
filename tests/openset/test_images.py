"""Whatever is given as an image arrives as the same pixels."""

import io
import os
import pathlib

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openset import ImageError
from openset.images import Url, as_list, encoded

PIXELS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12), st.just(3)))
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "RGBX", "RGBa")


def decoded(data):
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


def in_mode(pixels, mode):
    if mode == "LAB":  # Pillow makes none from RGB
        return Image.frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    if mode == "RGBa":
        return Image.fromarray(pixels).convert("RGBA").convert(mode)
    return Image.fromarray(pixels).convert(mode)


@given(PIXELS)
def test_array_arrives_with_the_same_pixels(pixels):
    image = decoded(encoded(pixels))
    assert image.format == "PNG"
    np.testing.assert_array_equal(np.asarray(image), pixels)


@given(PIXELS, st.sampled_from([np.s_[::-1], np.s_[:, ::-1], np.s_[..., ::-1], np.s_[::2, ::3]]))
def test_view_of_an_array_arrives_as_it_is_seen(pixels, view):
    np.testing.assert_array_equal(np.asarray(decoded(encoded(pixels[view]))), pixels[view])


@given(PIXELS, st.sampled_from(MODES))
def test_pil_image_arrives_with_the_same_colours_in_every_mode(pixels, mode):
    image = in_mode(pixels, mode)
    (checked,) = as_list(image)
    np.testing.assert_array_equal(
        np.asarray(decoded(encoded(checked)).convert("RGB")), np.asarray(image.convert("RGB"))
    )


def test_sixteen_bits_of_grey_are_kept():
    depth = np.arange(0, 2**16, 257, dtype=np.uint16).reshape(16, 16)
    np.testing.assert_array_equal(np.asarray(decoded(encoded(Image.fromarray(depth)))), depth)


@given(st.binary())
def test_bytes_arrive_as_they_are(data):
    assert encoded(data) == encoded(bytearray(data)) == encoded(memoryview(data)) == data


@given(data=st.binary())
def test_file_arrives_as_it_is(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "https picture"
    path.write_bytes(data)
    assert encoded(path) == encoded(str(path)) == data


@given(st.sampled_from(["http://", "https://", "HTTPS://"]), st.text())
def test_string_that_begins_like_a_url_is_one(scheme, rest):
    assert as_list(scheme + rest) == [scheme + rest]
    assert encoded(scheme + rest) == Url(scheme + rest)


@given(st.lists(PIXELS, min_size=1, max_size=4))
def test_list_keeps_its_order(images):
    assert all(one is other for one, other in zip(as_list(images), images, strict=True))
    assert all(one is other for one, other in zip(as_list(tuple(images)), images, strict=True))


def test_orientation_of_a_pil_image_is_not_sent():
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(turned, "JPEG", exif=exif)
    image = Image.open(turned)
    arrived = decoded(encoded(image))
    assert arrived.size == (8, 4)
    assert not arrived.getexif()


def test_frame_that_an_animation_shows_is_sent():
    file = io.BytesIO()
    red, blue = (Image.new("RGB", (4, 4), colour) for colour in ("red", "blue"))
    red.save(file, "GIF", save_all=True, append_images=[blue])
    animation = Image.open(file)
    animation.seek(1)
    arrived = decoded(encoded(animation))
    assert getattr(arrived, "n_frames", 1) == 1
    assert arrived.convert("RGB").getpixel((0, 0)) == (0, 0, 255)


@given(
    arrays.arrays(
        st.sampled_from([np.uint8, np.int64, np.float32, np.bool_]), arrays.array_shapes(min_dims=0, max_dims=4)
    )
)
def test_array_of_another_kind_is_refused_with_its_dtype_and_shape(pixels):
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3:
        return
    with pytest.raises(ImageError) as caught:
        as_list(pixels)
    assert str(pixels.dtype) in str(caught.value)
    assert str(pixels.shape) in str(caught.value)


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ([], "at least one"),
        (None, "NoneType"),
        (7, "int"),
        ({"a": 1}, "dict"),
        (io.StringIO("x"), "opened as text: open it with mode 'rb'"),
        ([b"x", None], "image 2 of 2 must be a path"),
        ([b"x", [b"y"]], "image 2 of 2 must be a path"),
        ("no/such.jpg", "there is no file 'no/such.jpg'"),
        (pathlib.Path("no"), "there is no file 'no'"),
        (".", "there is no file '.'"),
        ("ftp://a/b.jpg", "there is no file"),
        ("nul\0", "there is no file"),
        (Image.new("F", (2, 2)), "mode F"),
        (Image.new("RGB", (0, 2)), "0 x 2 pixels"),
        (np.zeros((0, 2, 3), np.uint8), "(0, 2, 3)"),
    ],
)
def test_what_is_no_image_is_refused_by_name(images, told):
    with pytest.raises(ImageError) as caught:
        as_list(images)
    assert told in str(caught.value)


@pytest.mark.parametrize("opened", [io.BytesIO, lambda data: io.BufferedReader(io.BytesIO(data))])
def test_open_file_is_read_from_where_it_stands(opened):
    (file,) = as_list(opened(b"<head>image"))
    file.seek(6)
    assert encoded(file) == b"image"


def test_open_files_are_one_list(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x")
    with (tmp_path / "a.png").open("rb") as file:
        assert [encoded(image) for image in as_list([file, b"y"])] == [b"x", b"y"]


class Wrapper:
    """Has only `read`, like the file that many a library hands out."""

    def __init__(self, data):
        self.data = data

    def read(self):
        return self.data


@pytest.mark.parametrize(
    ("file", "told"),
    [
        (Wrapper("text"), "gives str, not bytes"),
        (Wrapper(None), "gives NoneType, not bytes"),
        (io.BytesIO(), "has no bytes left"),
    ],
)
def test_open_file_without_bytes_is_refused(file, told):
    with pytest.raises(ImageError, match=told):
        encoded(*as_list(file))


def test_closed_file_is_refused():
    file = io.BytesIO(b"x")
    file.close()
    with pytest.raises(ImageError, match="closed file"):
        encoded(*as_list(file))


def test_file_that_goes_after_it_was_seen_is_named(tmp_path):
    with pytest.raises(ImageError, match=r"gone\.jpg' cannot be read: No such file"):
        encoded(tmp_path / "gone.jpg")


def test_truncated_pil_image_is_an_image_error(tmp_path):
    path = tmp_path / "half.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ImageError, match="cannot be read"):
        encoded(Image.open(path))


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_may_have_no_end_is_refused_by_name(tmp_path, kind):
    path = tmp_path / kind
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(ImageError, match=f"image 2 of 2: '.*{kind}' is a pipe, socket or device"):
        as_list([b"x", path])
    with pytest.raises(ImageError, match="it is no regular file"):
        encoded(path)


def test_an_open_device_is_refused():
    with open("/dev/zero", "rb") as device, pytest.raises(ImageError, match="the image is an open device"):
        as_list(device)


def test_file_that_no_server_would_take_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "sparse.jpg").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(ImageError, match=r"sparse\.jpg' cannot be read: it has 1099511627776 bytes"):
        encoded(tmp_path / "sparse.jpg")
