"""Small files that take long to decode, or much memory."""

import io
import struct
from functools import cache

from PIL import Image

from .fakes import picture


@cache
def many_scans(size=(1000, 1000), scans=20_000) -> bytes:
    """A progressive JPEG whose last scan comes again and again: each goes over all pixels."""
    whole = picture("grey", size, form="JPEG", mode="L", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * scans + b"\xff\xd9"


def short_rows(size=(7000, 7000)) -> bytes:
    """A run-length coded BMP of one pixel a row; Pillow fills the rest of each in Python."""
    width, height = size
    body = b"\x01\x01\x00\x00" * height + b"\x00\x01"
    palette = bytes(range(256)) * 4
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    offset = 14 + len(head) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(body), 0, 0, offset) + head + palette + body


def one_colour(size=(7000, 7000), *, form="JPEG", **options) -> bytes:
    """A picture of nearly as many pixels as are accepted, in few bytes."""
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, form, **options)
    return file.getvalue()
