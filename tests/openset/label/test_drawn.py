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
    path.write_bytes(b"kept")
    draw_pictures(job, tmp_path / "out")
    assert path.read_bytes() == b"kept"
