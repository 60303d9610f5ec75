import os

import numpy as np
from PIL import Image

from openset.label.drawn import draw_pictures

from .fakes import DOG, labelled, result


def test_pictures_are_drawn_as_jpeg_and_kept_by_a_second_run(tmp_path):
    (tmp_path / "in" / "sub").mkdir(parents=True)
    Image.new("RGB", (40, 30), "white").save(tmp_path / "in" / "sub" / "a.png")
    job = labelled(tmp_path, result("sub/a.png", DOG))
    path = draw_pictures(job, tmp_path / "out") / "sub" / "a.jpg"
    with Image.open(path) as image:
        assert (image.format, image.size) == ("JPEG", (40, 30))
        assert np.asarray(image).min() < 128  # a box
    time = path.stat().st_mtime_ns
    path.write_bytes(b"kept")
    os.utime(path, ns=(time, time))
    draw_pictures(job, tmp_path / "out")
    assert path.read_bytes() == b"kept"


def test_picture_that_has_changed_is_drawn_again(tmp_path):
    (tmp_path / "in").mkdir()
    source = tmp_path / "in" / "a.png"
    Image.new("RGB", (40, 30), "white").save(source)
    job = labelled(tmp_path, result("a.png", DOG))
    path = draw_pictures(job, tmp_path / "out") / "a.jpg"
    Image.new("RGB", (40, 30), "black").save(source)
    draw_pictures(job, tmp_path / "out")
    with Image.open(path) as image:
        assert image.getpixel((30, 25)) == (0, 0, 0)
