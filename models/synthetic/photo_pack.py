"""The photo pack: cut-outs of photographs with their names, and photographs to paste them on."""

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from models.synthetic.sprites import SpriteError

INDEX = "photographs.json"
PERSON = "person"  # name of rendered people


@dataclass(frozen=True)
class Cutout:
    """A cut-out, RGBA, cropped to its opaque part; `held_out`: one to validate with, whose name is never taught."""

    label: str
    image: Image.Image
    held_out: bool


@dataclass(frozen=True)
class PhotoPack:
    """Cut-outs, and photographs to paste on for training and for validation."""

    cutouts: tuple[Cutout, ...]
    backgrounds: tuple[Image.Image, ...]
    held_out_backgrounds: tuple[Image.Image, ...]

    def labels(self, *, held_out: bool) -> tuple[str, ...]:
        """Names of the cut-outs, sorted."""
        return tuple(sorted({one.label for one in self.cutouts if one.held_out == held_out}))


def load_photographs(path: str | Path) -> PhotoPack:
    """Read a pack that `rebuild_photographs` wrote; SpriteError if it is none."""
    if not zipfile.is_zipfile(path):
        raise SpriteError(f"{path} is no photo pack: it is no zip file")
    with zipfile.ZipFile(path) as pack:
        if INDEX not in pack.namelist():
            raise SpriteError(f"{path} is no photo pack: it has no {INDEX}")
        entries = json.loads(pack.read(INDEX))
        cutouts = tuple(
            Cutout(entry["label"], _read(pack, entry["file"], "RGBA"), entry["held_out"])
            for entry in entries["cutouts"]
        )
        backgrounds = [(_read(pack, entry["file"], "RGB"), entry["held_out"]) for entry in entries["backgrounds"]]
    if not cutouts or not backgrounds:
        raise SpriteError(f"{path} has {len(cutouts)} cut-outs and {len(backgrounds)} backgrounds; both are needed")
    return PhotoPack(
        cutouts,
        tuple(image for image, held_out in backgrounds if not held_out),
        tuple(image for image, held_out in backgrounds if held_out),
    )


def _read(pack: zipfile.ZipFile, name: str, mode: str) -> Image.Image:
    with Image.open(io.BytesIO(pack.read(name))) as file:
        return file.convert(mode)
