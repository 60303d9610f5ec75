"""The sprite pack: drawings of everyday objects in several art styles, and the labels they are trained under."""

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from models.data.text_files import parse_json, read_text

STYLES = ("noto", "twemoji", "fluent")
SIDE = 96  # pixels of a stored sprite, which its longer side fills
MIP_LEVELS = 3  # each at half the resolution of the one before
NAMES_FILE = Path(__file__).parent / "names.txt"
SMALL_PACK = Path(__file__).parent / "sprites"


class SpriteError(ValueError):
    """An unusable sprite pack or list of names; the message says why."""


@dataclass(frozen=True)
class NamedObject:
    """A class of objects: its label, the slugs of its sprites, and other names for it."""

    label: str
    slugs: tuple[str, ...]
    synonyms: tuple[str, ...] = ()
    keywords: tuple[str, ...] = ()


@dataclass(frozen=True)
class SpritePack:
    """All sprites as one tensor.

    `pixels` [N, MIP_LEVELS, 4, SIDE, SIDE] uint8, premultiplied RGBA; `rows` are the indices of each slug's sprites,
    `keywords` its keywords.
    """

    pixels: Tensor
    rows: dict[str, tuple[int, ...]]
    keywords: dict[str, tuple[str, ...]]

    @cached_property
    def halves(self) -> Tensor:
        """Sprites at half resolution [N, MIP_LEVELS, 4, SIDE / 2, SIDE / 2] uint8."""
        rows = [functional.avg_pool2d(row.float(), 2).round().to(torch.uint8) for row in self.pixels]
        return torch.stack(rows)

    def rows_of(self, slugs: Sequence[str]) -> list[tuple[int, ...]]:
        """Indices of the sprites of each of `slugs`; SpriteError names those the pack lacks."""
        missing = sorted(set(slugs) - set(self.rows))
        if missing:
            raise SpriteError(f"the sprite pack has no sprite of {missing}; it has {len(self.rows)} slugs")
        return [self.rows[slug] for slug in slugs]


def load_pack(path: str | Path, *, styles: Sequence[str] = STYLES) -> SpritePack:
    """Read a pack: a zip file or a folder with `sprites.json` and `<style>/<slug>.png`."""
    root = zipfile.Path(path) if zipfile.is_zipfile(path) else Path(path)
    index = root / "sprites.json"
    if not index.is_file():
        raise SpriteError(f"{path} is no sprite pack: it has no sprites.json")
    entries = parse_json(index.read_bytes(), str(index))
    sprites: list[Tensor] = []
    rows: dict[str, tuple[int, ...]] = {}
    for entry in entries:
        files = [root / style / f"{entry['slug']}.png" for style in styles]
        found = [file for file in files if file.is_file()]
        rows[entry["slug"]] = tuple(range(len(sprites), len(sprites) + len(found)))
        sprites += [_decode(file.read_bytes()) for file in found]
    if not sprites:
        raise SpriteError(f"{path} has no sprite in the styles {list(styles)}")
    keywords = {entry["slug"]: (entry["name"], *entry["keywords"]) for entry in entries}
    return SpritePack(_mipmaps(torch.stack(sprites)), {k: v for k, v in rows.items() if v}, keywords)


def _decode(data: bytes) -> Tensor:
    """Decode a sprite to [4, SIDE, SIDE] uint8: premultiplied RGBA, centred."""
    with Image.open(io.BytesIO(data)) as file:
        image = file.convert("RGBA")
    scale = SIDE / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.BICUBIC
    )
    square = Image.new("RGBA", (SIDE, SIDE))
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    values = np.asarray(square, np.float32)
    values[..., :3] *= values[..., 3:] / 255
    return torch.from_numpy(values.round().astype(np.uint8)).permute(2, 0, 1)


def _mipmaps(sprites: Tensor) -> Tensor:
    """Mipmaps [N, MIP_LEVELS, 4, SIDE, SIDE] of [N, 4, SIDE, SIDE] uint8, against aliasing of small sprites."""
    levels = [sprites]
    for level in range(1, MIP_LEVELS):
        blurred = torch.cat([_blurred(chunk, 2**level) for chunk in sprites.split(64)])
        levels.append(blurred)
    return torch.stack(levels, dim=1)


def _blurred(sprites: Tensor, factor: int) -> Tensor:
    pooled = functional.avg_pool2d(sprites.float(), factor)
    return functional.interpolate(pooled, size=(SIDE, SIDE), mode="bilinear").round().clamp(0, 255).to(torch.uint8)


def read_names(path: str | Path = NAMES_FILE, *, pack: SpritePack | None = None) -> tuple[NamedObject, ...]:
    """Read the objects of a names file (its head describes the format).

    With a pack, objects without a sprite are dropped, and each object gets those of the pack's keywords that name no
    other object of the list.
    """
    objects = list(_parse(Path(path)))
    if pack is None:
        return tuple(objects)
    drawable = [item for item in objects if all(slug in pack.rows for slug in item.slugs)]
    if not drawable:
        raise SpriteError(f"the sprite pack has none of the {len(objects)} objects of {path}")
    taken = {text for item in objects for text in (item.label, *item.synonyms)}
    words = {item.label: {w for slug in item.slugs for w in pack.keywords[slug]} - taken for item in drawable}
    counts: dict[str, int] = {}
    for found in words.values():
        for word in found:
            counts[word] = counts.get(word, 0) + 1
    return tuple(
        NamedObject(
            item.label, item.slugs, item.synonyms, tuple(sorted(w for w in words[item.label] if counts[w] == 1))
        )
        for item in drawable
    )


def _parse(path: Path) -> Iterator[NamedObject]:
    for number, line in enumerate(read_text(path).splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        label, colon, rest = line.partition(":")
        slugs, _, synonyms = rest.partition("|")
        item = NamedObject(label.strip(), _words(slugs), _words(synonyms))
        if not (colon and item.label and item.slugs):
            raise SpriteError(f"{path} line {number} is {line!r}; the format is 'label: slug, slug | synonym, synonym'")
        yield item


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())
