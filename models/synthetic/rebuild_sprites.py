"""Rebuild the sprite pack from the npm packages its drawings come from.

    python -m models.synthetic.rebuild_sprites sprites.zip

`npm pack` downloads them and runs no script of theirs. `emoji.txt` lists the emoji of the pack.
"""

import argparse
import io
import json
import re
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

# style -> package, and the path of a drawing in it. Licences: Apache-2.0, CC-BY 4.0, MIT.
STYLE_PACKAGES = {
    "noto": ("emoji-datasource-google@16.0.0", "package/img/google/64/{}.png"),
    "twemoji": ("emoji-datasource-twitter@16.0.0", "package/img/twitter/64/{}.png"),
    "fluent": ("@lobehub/fluent-emoji-3d@1.1.0", "package/assets/{}.webp"),
}
NAMES_PACKAGE = ("unicode-emoji-json@0.9.0", "package/data-by-emoji.json")
KEYWORDS_PACKAGE = ("emojilib@4.0.3", "package/dist/emoji-en-US.json")
SUBGROUPS_MEMBER = "package/emoji.json"  # of the first style's package
EMOJI_FILE = Path(__file__).parent / "emoji.txt"
MAX_SIDE = 96  # pixels
VARIATION_SELECTOR = "\ufe0f"


class RebuildError(ValueError):
    """A package that cannot be downloaded or lacks an expected entry."""


def download(package: str, folder: Path) -> Path:
    """Download a package's archive into `folder`; its path."""
    run = subprocess.run(
        ["npm", "pack", "--silent", package], cwd=folder, capture_output=True, text=True, timeout=600, check=False
    )
    if run.returncode:
        raise RebuildError(f"npm pack {package} failed: {run.stderr.strip()[-300:]}")
    return folder / run.stdout.strip().splitlines()[-1]


def read_json(archive: Path, member: str) -> Any:
    """Read a JSON file of a package."""
    with tarfile.open(archive) as tar:
        return json.load(_open_member(tar, member))


def slug_of(name: str) -> str:
    """File name of an emoji: the lower-case words of its name, joined by underscores."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower().replace("ñ", "n")).strip("_")


def build_index(
    emoji: Sequence[str], names: dict[str, Any], keywords: dict[str, list[str]], subgroups: dict[str, str]
) -> list[dict[str, Any]]:
    """Build the entries of `sprites.json`; the keys of `subgroups` are hexadecimal code points."""
    entries = []
    for character in emoji:
        info = names.get(character) or names.get(character.removesuffix(VARIATION_SELECTOR))
        if info is None:
            raise RebuildError(f"{NAMES_PACKAGE[0]} has no name for {character!r}")
        tags = keywords.get(character) or keywords.get(character.removesuffix(VARIATION_SELECTOR)) or []
        entries.append(
            {
                "slug": slug_of(info["name"]),
                "name": info["name"],
                "emoji": character,
                "group": info["group"],
                "subgroup": next((subgroups[key] for key in code_points(character) if key in subgroups), ""),
                "keywords": [word.replace("_", " ") for word in tags],
            }
        )
    return entries


def code_points(character: str) -> list[str]:
    """Spellings of an emoji in file names: its hexadecimal code points, with and without variation selector."""
    points = [f"{ord(point):04x}" for point in character]
    bare = [point for point in points if point != "fe0f"]
    return ["-".join(points), "-".join(bare), "-".join([*bare, "fe0f"])]


def read_files(archive: Path, pattern: str) -> dict[str, bytes]:
    """Files of a package that match `pattern`, keyed by the part in its braces; in one pass, as gzip cannot seek."""
    before, after = pattern.split("{}")
    with tarfile.open(archive) as tar:
        return {
            member.name[len(before) : -len(after)]: _open_member(tar, member).read()
            for member in tar
            if member.name.startswith(before) and member.name.endswith(after)
        }


def sprite_png(files: dict[str, bytes], character: str) -> bytes:
    """Encode an emoji's drawing as PNG, cropped to its opaque part, its longer side at most `MAX_SIDE` pixels."""
    options = code_points(character)
    name = next((option for option in options if option in files), None)
    if name is None:
        raise RebuildError(f"no drawing of {character!r}: looked for {options} among {len(files)} files")
    with Image.open(io.BytesIO(files[name])) as file:
        image = file.convert("RGBA")
    image = image.crop(image.getchannel("A").getbbox())
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "PNG", optimize=True)
    return data.getvalue()


def _open_member(tar: tarfile.TarFile, member: str | tarfile.TarInfo) -> Any:
    file = tar.extractfile(member)
    if file is None:
        raise RebuildError(f"the package has no file {member}")
    return file


def rebuild(out: Path, emoji: Sequence[str], folder: Path) -> int:
    """Write the pack; its number of sprites."""
    names = read_json(download(NAMES_PACKAGE[0], folder), NAMES_PACKAGE[1])
    keywords = read_json(download(KEYWORDS_PACKAGE[0], folder), KEYWORDS_PACKAGE[1])
    archives = {style: download(package, folder) for style, (package, _) in STYLE_PACKAGES.items()}
    subgroups = {
        row["unified"].lower(): row["subcategory"] for row in read_json(next(iter(archives.values())), SUBGROUPS_MEMBER)
    }
    entries = build_index(emoji, names, keywords, subgroups)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as pack:
        pack.writestr("sprites.json", json.dumps(entries, ensure_ascii=False, indent=1))
        for style, (_, pattern) in STYLE_PACKAGES.items():
            files = read_files(archives[style], pattern)
            for entry in entries:
                pack.writestr(f"{style}/{entry['slug']}.png", sprite_png(files, entry["emoji"]))
    return len(entries) * len(STYLE_PACKAGES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Rebuild the sprite pack from npm packages.")
    parser.add_argument("out", type=Path, help="zip file to write")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        count = rebuild(args.out, EMOJI_FILE.read_text(encoding="utf-8").split(), Path(folder))
    print(f"wrote {count} sprites to {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
