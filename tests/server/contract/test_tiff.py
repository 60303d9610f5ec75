"""TIFF files that Pillow alone would show otherwise than they are meant."""

import io
import struct

import numpy as np
import pytest
from PIL import Image

from server.contract.image_file import UnsupportedFile, decode

RGB, PALETTE = 2, 3
SHORT, LONG = 3, 4


def tiff_file(samples, photometric, *, order="<", planes=False, sample_format=1, colours=()):
    """An uncompressed TIFF of `samples` [height, width, channels]; `planes`: one after the other, not interleaved."""
    height, width, channels = samples.shape
    data = samples.astype(samples.dtype.newbyteorder(order))
    strips = [data[..., channel].tobytes() for channel in range(channels)] if planes else [data.tobytes()]
    offsets = [8 + sum(map(len, strips[:index])) for index in range(len(strips))]
    entries = [
        (256, SHORT, [width]),
        (257, SHORT, [height]),
        (258, SHORT, [8 * samples.dtype.itemsize] * channels),
        (259, SHORT, [1]),
        (262, SHORT, [photometric]),
        (273, LONG, offsets),
        (277, SHORT, [channels]),
        (278, SHORT, [height]),
        (279, LONG, [len(strip) for strip in strips]),
        (284, SHORT, [2 if planes else 1]),
        *([(320, SHORT, colours)] if len(colours) else []),
        (339, SHORT, [sample_format] * channels),
    ]
    at = 8 + sum(map(len, strips))
    directory, elsewhere = struct.pack(order + "H", len(entries)), b""
    for tag, kind, values in entries:
        packed = struct.pack(f"{order}{len(values)}{'HI'[kind - SHORT]}", *values)
        if len(packed) > 4:
            place = at + 2 + 12 * len(entries) + 4 + len(elsewhere)
            elsewhere, packed = elsewhere + packed, struct.pack(order + "I", place)
        directory += struct.pack(order + "HHI", tag, kind, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    return head + b"".join(strips) + directory + bytes(4) + elsewhere


def shown(data):
    return np.asarray(decode(data, name="it").convert("RGB"))


def noise(channels=3):
    return np.random.default_rng(0).integers(0, 256, (9, 7, channels), np.uint8)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("planes", [False, True])
def test_planes_are_shown_as_interleaved_samples(order, planes):
    samples = noise()
    assert np.array_equal(shown(tiff_file(samples, RGB, order=order, planes=planes)), samples)
    deep = samples.astype(np.uint16) * 257
    assert np.array_equal(shown(tiff_file(deep, RGB, order=order, planes=planes)), samples)


@pytest.mark.parametrize("unit", [1, 257], ids=["of 8 bits", "of 16 bits"])
def test_colour_map_is_read_in_both_depths(unit):
    ramp = np.arange(256)
    colours = np.concatenate([ramp, ramp[::-1], np.full(256, 9)]) * unit
    indices = noise(1)
    expected = np.stack([indices[..., 0], 255 - indices[..., 0], np.full_like(indices[..., 0], 9)], -1)
    assert np.array_equal(shown(tiff_file(indices, PALETTE, colours=colours.tolist())), expected)


def test_signed_bytes_are_refused():
    with pytest.raises(UnsupportedFile, match="variant of TIFF that is not read"):
        shown(tiff_file(noise(1), 1, sample_format=2))


def test_pillow_shows_planes_of_sixteen_bits_wrongly():
    """So that the repair goes once Pillow needs it no more."""
    samples = noise().astype(np.uint16) * 257
    with Image.open(io.BytesIO(tiff_file(samples, RGB, planes=True))) as image:
        assert not np.array_equal(np.asarray(image.convert("RGB")), samples // 257)
