import json
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from models.synthetic.sprites import MIP_LEVELS, NAMES_FILE, SIDE, SMALL_PACK, SpriteError, load_pack, read_names

MOST_BYTES = 1 << 20


def test_the_small_pack_is_under_a_mebibyte():
    assert sum(file.stat().st_size for file in SMALL_PACK.rglob("*") if file.is_file()) < MOST_BYTES


def test_a_pack_holds_every_style_of_every_slug():
    pack = load_pack(SMALL_PACK)
    count = len(json.loads((SMALL_PACK / "sprites.json").read_text()))
    assert pack.pixels.shape == (3 * count, MIP_LEVELS, 4, SIDE, SIDE)
    assert all(len(rows) == 3 for rows in pack.rows.values())


def test_a_zip_file_is_read_like_a_folder(tmp_path: Path):
    archive = tmp_path / "pack.zip"
    with zipfile.ZipFile(archive, "w") as pack:
        for file in SMALL_PACK.rglob("*"):
            if file.is_file():
                pack.write(file, file.relative_to(SMALL_PACK).as_posix())
    assert load_pack(archive).pixels.equal(load_pack(SMALL_PACK).pixels)


def test_styles_can_be_selected():
    assert all(len(rows) == 1 for rows in load_pack(SMALL_PACK, styles=["noto"]).rows.values())


def test_colours_are_premultiplied(tmp_path: Path):
    (tmp_path / "noto").mkdir()
    Image.new("RGBA", (SIDE, SIDE), (200, 100, 50, 128)).save(tmp_path / "noto" / "glass.png")
    (tmp_path / "sprites.json").write_text(json.dumps([{"slug": "glass", "name": "glass", "keywords": []}]))
    middle = load_pack(tmp_path).pixels[0, 0, :, SIDE // 2, SIDE // 2]
    assert middle.tolist() == [100, 50, 25, 128]


def test_a_folder_without_an_index_is_no_pack(tmp_path: Path):
    with pytest.raises(SpriteError, match=r"no sprites\.json"):
        load_pack(tmp_path)


def test_bundled_names_are_at_least_150_and_no_text_names_two_objects():
    objects = read_names()
    texts = [text for item in objects for text in (item.label, *item.synonyms)]
    assert len(objects) >= 150
    assert len({*texts}) == len(texts) - sum(item.label in item.synonyms for item in objects)


def test_objects_without_a_sprite_are_dropped():
    drawn = {item.label for item in read_names(pack=load_pack(SMALL_PACK))}
    assert {"dog", "apple", "guitar"} <= drawn
    assert "zebra" not in drawn


def test_keywords_name_one_object_only():
    objects = read_names(pack=load_pack(SMALL_PACK))
    words = [word for item in objects for word in item.keywords]
    assert len(words) == len(set(words))
    assert not set(words) & {text for item in read_names(NAMES_FILE) for text in (item.label, *item.synonyms)}


@pytest.mark.parametrize("line", ["dog", ": dog", "dog:"])
def test_a_malformed_line_is_named(tmp_path: Path, line: str):
    file = tmp_path / "names.txt"
    file.write_text(f"# head\n{line}\n")
    with pytest.raises(SpriteError, match="line 2"):
        read_names(file)


def test_a_list_of_names_may_begin_with_a_byte_order_mark(tmp_path: Path):
    (tmp_path / "names.txt").write_text("dog: dog\n", encoding="utf-8-sig")
    assert [item.label for item in read_names(tmp_path / "names.txt")] == ["dog"]
