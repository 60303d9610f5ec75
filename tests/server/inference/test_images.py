"""Work on one image: the memory that is reserved for it is what it takes; a part of a JPEG's pixels is enough."""

import io
import multiprocessing
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from server.contract import heic
from server.contract.image_file import FORMATS
from server.contract.manifest import Preprocessing
from server.inference.images import Work, draw_on, memory_bytes, opened, prepare
from tests.server.slow_pictures import one_colour

RULES = Preprocessing(resize="shorter_longer", shorter=800, longer=1333, mean=(0,) * 3, std=(1,) * 3).model_dump()
SIZE = (2400, 1800)
SLACK = 12 * 2**20  # buffers of the decoders


def growth(work):
    """Bytes that a process grows by while it works on an image, and those that were reserved."""

    def status(name):
        return 1024 * int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1])

    def measure():
        Path("/proc/self/clear_refs").write_text("5")
        before = status("VmRSS")
        images = [opened(work)]
        reserved = memory_bytes(work, images[0])
        draw_on(work, images.pop()) if work.rules is None else prepare(work, images.pop())
        send.send((status("VmHWM") - before, reserved))

    fork = multiprocessing.get_context("fork")
    answers, send = fork.Pipe(duplex=False)
    child = fork.Process(target=measure)
    child.start()
    child.join(60)
    return answers.recv()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak")
@pytest.mark.parametrize("rules", [RULES, None], ids=["prepared", "drawn"])
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"turned": True}),
        ("JPEG", {"progressive": True, "subsampling": 0}),
        ("JPEG", {"progressive": True, "turned": True}),
        ("PNG", {"turned": True}),
        ("WEBP", {"method": 0}),
        ("WEBP", {"method": 0, "lossless": True, "turned": True}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate", "turned": True}),
        pytest.param("AVIF", {"speed": 10}, marks=pytest.mark.skipif(not features.check("avif"), reason="no AVIF")),
        pytest.param("HEIF", {}, marks=pytest.mark.skipif(not heic.is_installed(), reason="no HEIC")),
    ],
    ids=str,
)
def test_work_takes_no_more_memory_than_is_reserved(form, options, rules):
    if form == heic.FORMAT:
        heic.register()
    exif = {"exif": turned()} if options.get("turned") else {}
    data = one_colour(SIZE, form=form, **{name: value for name, value in options.items() if name != "turned"}, **exif)
    taken, reserved = growth(Work(data, "x", 10**8, (*FORMATS, "AVIF", "HEIC"), rules))
    assert taken <= reserved + SLACK


GAP = Preprocessing(
    resize="shorter_longer", shorter=40, longer=80, reducing_gap=2, scale=1, mean=(0,) * 3, std=(1,) * 3
).model_dump()
EXACT = GAP | {"reducing_gap": None}


def photograph(size, orientation=1, form="JPEG"):
    """A picture of large shapes, which every decoder shows alike."""
    width, height = size
    y, x = np.mgrid[:height, :width]
    levels = np.stack([255 * x / width, 255 * y / height, 127 + 120 * np.sin(9 * x / width)], axis=2)
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(levels.astype(np.uint8)).save(file, form, quality=95, exif=exif)
    return file.getvalue()


def prepared(data, rules):
    work = Work(data, "x", 10**8, rules=rules)
    image = opened(work)
    return prepare(work, image), image


@settings(max_examples=60, deadline=None)
@given(width=st.integers(30, 400), height=st.integers(30, 400), orientation=st.integers(1, 8), cut=st.booleans())
def test_picture_decoded_at_a_part_keeps_its_size_and_its_place(width, height, orientation, cut):
    data = photograph((width, height), orientation)
    data = data[:-2] if cut else data  # without its end mark it is read again
    (whole, _), (part, _) = prepared(data, EXACT), prepared(data, GAP)
    assert part.size == whole.size
    assert part.pixels.shape == whole.pixels.shape
    assert np.abs(part.pixels - whole.pixels).mean() < 3


@pytest.mark.parametrize(
    ("size", "rules", "decoded"),
    [
        ((1280, 640), GAP, (160, 80)),
        ((1280, 632), GAP, (320, 158)),  # an eighth would be less than twice the input
        ((1282, 642), GAP, (641, 321)),
        ((1281, 640), GAP, (1281, 640)),  # a part of a pixel would be left
        ((150, 150), GAP, (150, 150)),
        ((1280, 640), EXACT, (1280, 640)),
    ],
)
def test_jpeg_is_decoded_at_the_least_part_that_its_gap_allows(size, rules, decoded):
    result, image = prepared(photograph(size), rules)
    assert image.size == decoded
    assert result.size == size[::-1]


def test_other_formats_are_averaged_within_the_gap():
    data = photograph((1200, 600), form="PNG")
    (whole, _), (part, _) = prepared(data, EXACT), prepared(data, GAP)
    assert not np.array_equal(part.pixels, whole.pixels)
    assert np.abs(part.pixels - whole.pixels).mean() < 1
