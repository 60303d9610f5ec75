"""Work on one image: the memory that is reserved for it is what it takes."""

import multiprocessing
import re
from pathlib import Path

import pytest
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
