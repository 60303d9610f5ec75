"""Entries of EXIF and TIFF that change the picture: the orientation in every integer type, and the depth of grey."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from server.contract.image_file import decode, exif_orientation, upright_size

TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
MAX_SAMPLE = 281


def exif(kind, value, order="<", count=1):
    """EXIF data with an orientation of a TIFF type, and nothing else."""
    packed = struct.pack(order + TYPES[kind], value).ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "IH", 8, 1)
    return head + struct.pack(order + "HHI4s", 0x0112, kind, count, packed) + b"\0\0\0\0"


@given(st.sampled_from(sorted(TYPES)), st.integers(1, 8), st.sampled_from("<>"))
def test_orientation_of_every_integer_type_is_read_as_pillow_does(kind, value, order):
    pillow = Image.Exif()
    pillow.load(b"Exif\0\0" + exif(kind, value, order))
    assert pillow[0x0112] in (value, bytes([value]))  # it gives bytes as they are
    assert exif_orientation(exif(kind, value, order)) == value


@pytest.mark.parametrize("kind", sorted(TYPES))
def test_picture_is_upright_whatever_the_type_of_its_orientation(kind):
    stored = io.BytesIO()
    Image.new("RGB", (40, 30)).save(stored, "JPEG", exif=b"Exif\0\0" + exif(kind, 6))
    assert decode(stored.getvalue(), name="it").size == (30, 40)


@pytest.mark.parametrize(("kind", "count"), [(3, 0), (3, 3), (4, 2), (3, 2**32 - 1)])
def test_values_that_lie_elsewhere_are_no_orientation(kind, count):
    assert exif_orientation(exif(kind, 8, count=count)) is None


def grey_tiff(pixels, most=None):
    """A TIFF of 16-bit grey, with the largest value that its samples may have."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    if most is not None:
        info.tagtype[MAX_SAMPLE], info[MAX_SAMPLE] = 3, most
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint16)).save(file, "TIFF", tiffinfo=info)
    return file.getvalue()


@pytest.mark.parametrize("bits", range(9, 17))
def test_grey_of_fewer_bits_is_as_bright_as_its_depth_says(bits):
    ramp = np.linspace(0, 2**bits - 1, 256)[None].repeat(4, 0)
    seen = np.asarray(decode(grey_tiff(ramp, 2**bits - 1), name="it")).astype(int)
    assert (seen[0, 0], seen[0, -1]) == (0, 255)
    assert np.abs(seen - np.arange(256)).max() <= 1


def test_samples_beyond_the_depth_are_white():
    assert np.asarray(decode(grey_tiff(np.full((4, 4), 60_000), 4095), name="it")).min() == 255


@pytest.mark.parametrize("most", [None, 0, 255, 3800, 65_535])
def test_largest_value_of_one_picture_does_not_stretch_its_contrast(most):
    assert set(np.asarray(decode(grey_tiff(np.full((4, 4), 0x1234), most), name="it")).flat) == {0x12}


def chunk(kind, content, *, damaged=False):
    checksum = zlib.crc32(kind + content) ^ damaged
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("late", [False, True])
def test_png_is_upright_wherever_it_tells_it_and_damaged_entries_are_passed_over(late, damaged):
    file = io.BytesIO()
    Image.new("RGB", (40, 30)).save(file, "PNG")
    data = file.getvalue()
    place = data.index(b"IEND" if late else b"IDAT") - 4
    entries = chunk(b"tRNS", b"odd", damaged=True) + chunk(b"eXIf", exif(3, 6), damaged=damaged)
    data = data[:place] + entries + data[place:]
    expected = (40, 30) if damaged else (30, 40)
    assert decode(data, name="it").size == expected
    assert upright_size(data, name="it") == expected[::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_size_by_the_head_is_that_of_the_upright_picture(form, orientation):
    entries, file = Image.Exif(), io.BytesIO()
    entries[0x0112] = orientation
    Image.new("RGB", (40, 30)).save(file, form, exif=entries)
    decoded = decode(file.getvalue(), name="it")
    assert upright_size(file.getvalue(), name="it") == (decoded.height, decoded.width)
