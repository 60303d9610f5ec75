import zipfile

import pytest

from models.synthetic.photo_pack import load_photographs
from models.synthetic.sprites import SpriteError
from tests.models.synthetic.photographs import HELD_OUT, LABELS, write_photographs


def test_a_pack_keeps_what_validates_apart(tmp_path):
    pack = load_photographs(write_photographs(tmp_path / "photographs.zip"))
    assert pack.labels(held_out=False) == tuple(sorted(LABELS))
    assert pack.labels(held_out=True) == tuple(sorted(HELD_OUT))
    assert (len(pack.backgrounds), len(pack.held_out_backgrounds)) == (2, 1)
    assert {one.image.mode for one in pack.cutouts} == {"RGBA"}


@pytest.mark.parametrize(("content", "message"), [(None, "no zip file"), ({}, "has no photographs.json")])
def test_another_file_is_no_photo_pack(content, message, tmp_path):
    file = tmp_path / "some.zip"
    if content is None:
        file.write_bytes(b"text")
    else:
        zipfile.ZipFile(file, "w").close()
    with pytest.raises(SpriteError, match=message):
        load_photographs(file)


def test_a_pack_without_photographs_to_paste_on_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as pack:
        pack.writestr("photographs.json", '{"cutouts": [], "backgrounds": []}')
    with pytest.raises(SpriteError, match="0 cut-outs and 0 backgrounds"):
        load_photographs(tmp_path / "some.zip")
