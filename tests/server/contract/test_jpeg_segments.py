"""Segments of a JPEG: metadata, whatever it holds, does not keep its picture from being shown."""

import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from server.contract.image_file import decode
from server.contract.jpeg_segments import EOI, SOS, picture, segments

PIXELS = np.random.default_rng(0).integers(0, 255, (30, 40, 3), np.uint8)
EXIF = b"Exif\0\0II*\0" + struct.pack("<IHHHII", 8, 1, 0x0112, 3, 1, 6) + bytes(4)
XMP = b"http://ns.adobe.com/xap/1.0/\0<rdf:Description %s/>"


def jpeg(*added, mode="RGB"):
    """A JPEG with these segments, each a marker and its content, after its first marker."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, "JPEG", quality=95)
    data = file.getvalue()
    more = b"".join(struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for marker, content in added)
    return data[:2] + more + data[2:]


def shown(data):
    return np.asarray(decode(data, name="it").convert("RGB"))


@given(st.lists(st.tuples(st.sampled_from([*range(0xE0, 0xF0), 0xFE]), st.binary(max_size=40)), max_size=5))
def test_no_metadata_changes_a_picture(added):
    assert np.array_equal(shown(jpeg(*added)), shown(jpeg()))


@pytest.mark.parametrize(
    "added",
    [(0xE0, b"JFIF\0"), (0xE2, b"ICC_PROFILE\0"), (0xED, b"Photoshop 3.0\x008BIM\4\4"), (0xEE, b"Adobe"), (0xE1, b"")],
    ids=lambda added: added[1][:5].decode(),
)
def test_segment_that_breaks_off_is_passed_over(added):
    assert np.array_equal(shown(jpeg(added)), shown(jpeg()))


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_colours_are_those_of_the_whole_file(mode):
    file = io.BytesIO(jpeg(mode=mode))
    assert np.array_equal(shown(file.getvalue()), np.asarray(Image.open(file).convert("RGB")))


@pytest.mark.parametrize(
    "added",
    [
        [(0xE1, EXIF)],
        [(0xE1, b"Exif\0\0 no TIFF"), (0xE1, EXIF)],
        [(0xE1, EXIF), (0xE1, EXIF.replace(b"\6\0\0\0", b"\1\0\0\0"))],
        [(0xFE, b"a comment"), (0xE2, b"ICC_PROFILE\0"), (0xE1, EXIF)],
        [(0xE1, XMP % b'tiff:Orientation="6"')],
        [(0xE1, XMP % b"tiff:Orientation = '6'")],
        [(0xE1, XMP % b"><tiff:Orientation> 6 </tiff:Orientation>")],
    ],
)
def test_first_segment_that_tells_the_orientation_counts(added):
    assert decode(jpeg(*added), name="it").size == (30, 40)


def test_segments_end_with_the_picture():
    found = [marker for marker, _, _ in segments(jpeg() + b"\xff\xe0\0\4ab")]
    assert found[-1] == SOS
    assert EOI not in found


def test_file_without_metadata_is_left_as_it_is():
    plain = picture(jpeg((0xE5, b"x")), may_orient=lambda _: False)
    assert plain == jpeg()
    assert picture(plain, may_orient=lambda _: False) is plain
