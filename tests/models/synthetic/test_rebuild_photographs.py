"""The photo pack is rebuilt from what is free, cut out as the table says."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from models.synthetic.debian_packages import PackageError
from models.synthetic.photo_pack import load_photographs
from models.synthetic.rebuild_photographs import (
    CUTOUT_SIDE,
    RESOURCES,
    Material,
    Photograph,
    cut_from_ground,
    cutout,
    free_files,
    read_table,
    rebuild,
)
from tests.models.synthetic.photographs import encoded
from tests.models.synthetic.test_debian_packages import write_resources

README = """Copyright: Someone
Source: https://example.org/wiki/File:Owl.jpg
License: Public Domain
Files:
owl.png
plain.png

Copyright: Someone else
License: CC-BY-SA-4.0
Files:
crow.png
"""
TOOLS = Photograph("owl", "gcompris-qt-data", "birds:pictures/owl.png", "alpha", held_out=False)


def owl(side: int = 400) -> Image.Image:
    image = Image.new("RGBA", (side, side))
    ImageDraw.Draw(image).ellipse((side // 4, side // 4, side // 2, 3 * side // 4), fill="brown")
    return image


@pytest.fixture
def material(tmp_path: Path) -> Material:
    folder = tmp_path / RESOURCES
    folder.mkdir(parents=True)
    files = {"pictures/README": README.encode(), "pictures/owl.png": encoded(owl()), "pictures/crow.png": b"a crow"}
    files["pictures/plain.png"] = encoded(Image.new("RGB", (900, 700), "green"))
    write_resources(folder / "birds.rcc", files)
    return Material({"gcompris-qt-data": tmp_path})


def test_the_table_names_a_way_to_cut_and_what_validates():
    table = read_table()
    assert {one.cut for one in table} == {"alpha", "half", "ground", "whole"}
    assert all((one.label == "*") == (one.cut == "whole") for one in table)
    taught, held_out = ({one.label for one in table if one.held_out == kind} - {"*"} for kind in (False, True))
    assert taught
    assert held_out
    assert not taught & held_out


def test_only_files_under_a_free_licence_are_free():
    assert list(free_files(README)) == ["owl.png", "plain.png"]


def test_a_file_that_its_readme_does_not_free_is_refused(material: Material):
    with pytest.raises(PackageError, match=r"birds\.rcc: the README does not declare pictures/crow\.png free"):
        material.read(Photograph("crow", "gcompris-qt-data", "birds:pictures/crow.png", "alpha", held_out=False))


def test_a_file_that_is_not_there_is_named(material: Material):
    with pytest.raises(PackageError, match=r"birds\.rcc has no pictures/jay\.png"):
        material.read(Photograph("jay", "gcompris-qt-data", "birds:pictures/jay.png", "alpha", held_out=False))


def test_a_pack_is_written_that_can_be_read(material: Material, tmp_path: Path):
    ground = Photograph("*", "gcompris-qt-data", "birds:pictures/plain.png", "whole", held_out=False)
    assert rebuild(tmp_path / "pack.zip", [TOOLS, ground], material) == 2
    pack = load_photographs(tmp_path / "pack.zip")
    assert pack.labels(held_out=False) == ("owl",)
    assert pack.cutouts[0].image.size == (101, 201)
    assert pack.backgrounds[0].size == (823, 640)


def test_a_large_cutout_is_reduced_and_of_a_sheet_its_left_half_is_taken():
    sheet = Image.new("RGBA", (2000, 1000))
    sheet.paste(owl(1000), (0, 0))
    sheet.paste((255, 0, 0, 255), (1000, 0, 2000, 1000))
    found = cutout(encoded(sheet), "half")
    assert max(found.size) == CUTOUT_SIDE
    assert np.asarray(found)[CUTOUT_SIDE // 2, found.width // 2, :3].tolist() == [165, 42, 42]


def test_an_object_is_cut_from_a_plain_ground():
    pytest.importorskip("cv2")
    image = Image.new("RGB", (300, 200), (200, 205, 210))
    ImageDraw.Draw(image).rectangle((80, 50, 219, 149), fill=(180, 30, 40))
    alpha = np.asarray(cut_from_ground(image).getchannel("A"))
    assert alpha[60:140, 90:210].min() > 200
    assert alpha[:40].max() == alpha[160:].max() == 0
    assert cutout(io.BytesIO(encoded(image)).getvalue(), "ground").size == pytest.approx((140, 100), abs=4)
