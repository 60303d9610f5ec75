"""Queries send the annotated image."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.data.images import BrokenPicture, PictureFile
from models.evaluation.metrics import Query, mean_or_nan
from server.contract.image_file import decode


def image_bytes(file: Path, size: tuple[int, int] | None) -> bytes:
    return Query(PictureFile(file), str(file), (), size).image_bytes()


def test_an_image_is_sent_unchanged_unless_exif_would_rotate_the_annotated_pixels(tmp_path: Path):
    rotated, plain = tmp_path / "rotated.jpg", tmp_path / "plain.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # displayed rotated by a quarter
    Image.new("RGB", (80, 60), "red").save(rotated, exif=exif)
    Image.new("RGB", (80, 60)).save(plain)
    assert image_bytes(plain, (60, 80)) == plain.read_bytes()
    for size in ((60, 80), (80, 60)):  # annotated as stored, as displayed
        served = decode(image_bytes(rotated, size), name="it")
        assert size == (served.height, served.width)
    assert image_bytes(rotated, (80, 60)) == rotated.read_bytes()
    with pytest.raises(BrokenPicture, match=r"plain.jpg: the picture is 60 x 80"):
        image_bytes(plain, (61, 80))


def test_the_mean_of_nothing_is_nan():
    assert mean_or_nan(np.asarray([1.0, 2.0])) == 1.5
    assert np.isnan(mean_or_nan(np.zeros(0)))
