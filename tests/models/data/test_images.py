import io
import os
from pathlib import Path

import pytest
from PIL import Image

from models.data.images import BrokenPicture, PictureBytes, PictureFile
from tests.models.data import annotated_sets as sets


def turned() -> bytes:
    """A JPEG stored 20 x 10 (width x height) that is to be shown 10 x 20."""
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10), "red").save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def test_the_annotated_size_tells_whether_a_picture_is_turned_upright():
    picture = PictureBytes(turned(), "shard: a.jpg")
    assert picture.open().size == (10, 20)
    assert picture.open((20, 10)).size == (10, 20)
    assert picture.open((10, 20)).size == (20, 10)
    with pytest.raises(BrokenPicture, match=r"shard: a\.jpg: the picture is 20 x 10 .* 30 x 40"):
        picture.open((30, 40))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "I;16", "1"])
def test_pictures_of_every_mode_come_in_rgb(mode: str):
    stream = io.BytesIO()
    Image.new(mode, (4, 3)).save(stream, "TIFF" if mode == "CMYK" else "PNG")
    assert PictureBytes(stream.getvalue(), "x").open().mode == "RGB"


def test_truncated_missing_and_foreign_files_are_named(tmp_path: Path):
    whole = sets.png(sets.picture(0)[0])
    for name, data in (("cut.png", whole[:60]), ("text.png", b"hello"), ("empty.png", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(BrokenPicture, match=name):
            PictureFile(tmp_path / name).open()
    os.mkfifo(tmp_path / "pipe.png")
    for endless in (tmp_path / "pipe.png", Path("/dev/zero"), tmp_path):
        with pytest.raises(BrokenPicture, match=f"{endless}: the picture cannot be read: it is no regular file"):
            PictureFile(endless).open()
    with pytest.raises(BrokenPicture, match=r"none\.png: the picture cannot be read: No such file"):
        PictureFile(tmp_path / "none.png").open()
