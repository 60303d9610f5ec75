import io
import json
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from models.synthetic import rebuild_sprites
from models.synthetic.rebuild_sprites import (
    EMOJI_FILE,
    KEYWORDS_PACKAGE,
    NAMES_PACKAGE,
    STYLE_PACKAGES,
    SUBGROUPS_MEMBER,
    RebuildError,
    code_points,
    rebuild,
    slug_of,
    sprite_png,
)
from models.synthetic.sprites import load_pack

DOG = "\U0001f415"


def image_bytes(kind: str) -> bytes:
    image = Image.new("RGBA", (200, 100))
    image.paste((255, 0, 0, 255), (20, 10, 180, 90))
    data = io.BytesIO()
    image.save(data, kind, lossless=True)
    return data.getvalue()


def write_archive(file: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(file, "w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def test_the_list_of_emoji_has_no_duplicate():
    emoji = EMOJI_FILE.read_text(encoding="utf-8").split()
    assert len(emoji) == len(set(emoji)) > 700


def test_slugs_are_plain_file_names():
    assert slug_of("woman’s hat") == "woman_s_hat"
    assert slug_of("piñata") == "pinata"
    assert slug_of("T-Rex") == "t_rex"


def test_a_sprite_is_cropped_and_downscaled():
    with Image.open(io.BytesIO(sprite_png({"1f415": image_bytes("WEBP")}, DOG))) as image:
        assert image.size == (96, 48)


def test_the_variation_selector_may_be_missing_in_file_names():
    assert code_points("☀\ufe0f") == ["2600-fe0f", "2600", "2600-fe0f"]
    assert sprite_png({"2600": image_bytes("PNG")}, "☀\ufe0f")


def test_an_emoji_without_a_drawing_is_named():
    with pytest.raises(RebuildError, match=DOG):
        sprite_png({}, DOG)


def test_a_pack_is_rebuilt_from_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    info = {DOG: {"name": "dog", "group": "Animals & Nature"}}
    archives = {
        NAMES_PACKAGE[0]: {NAMES_PACKAGE[1]: json.dumps(info).encode()},
        KEYWORDS_PACKAGE[0]: {KEYWORDS_PACKAGE[1]: json.dumps({DOG: ["dog", "guide_dog"]}).encode()},
    }
    for package, pattern in STYLE_PACKAGES.values():
        subgroups = json.dumps([{"unified": "1F415", "subcategory": "animal-mammal"}]).encode()
        kind = pattern.rsplit(".", 1)[1].upper()
        archives[package] = {SUBGROUPS_MEMBER: subgroups, pattern.format("1f415"): image_bytes(kind)}
    monkeypatch.setattr(
        rebuild_sprites,
        "download",
        lambda package, folder: write_archive(folder / f"{list(archives).index(package)}.tgz", archives[package]),
    )
    assert rebuild(tmp_path / "pack.zip", [DOG], tmp_path) == 3
    pack = load_pack(tmp_path / "pack.zip")
    assert pack.rows == {"dog": (0, 1, 2)}
    assert pack.keywords["dog"] == ("dog", "dog", "guide dog")
