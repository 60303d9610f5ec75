"""Rebuild the photo pack from the Debian packages its photographs come from.

    pip install opencv-python-headless
    python -m models.synthetic.rebuild_photographs photographs.zip

`photographs.tsv` lists the photographs, each with the way it is cut out. Those of GCompris are in the public domain or
CC0 by the READMEs beside them, which is checked; the stamps of Tux Paint are under the GPL-2: a model may learn from
them, the pack must not be handed on.
"""

import argparse
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from models.synthetic.debian_packages import PackageError, download, read_resources
from models.synthetic.photo_pack import INDEX

PACKAGES = {"gcompris-qt-data": "3.1-2", "tuxpaint-stamps-default": "2022.06.04-1"}
RESOURCES = "usr/share/gcompris-qt/rcc"
FREE = {"public domain", "cc0-1.0"}
TABLE = Path(__file__).parent / "photographs.tsv"
CUTOUT_SIDE, BACKGROUND_SIDE, WORKING_SIDE = 256, 640, 400  # pixels of the longer side
RIM = 0.015  # share of a photograph's sides that is ground
LEAST_PART = 0.08  # of the largest part's area, which another part of an object has at least
SOFTNESS = 1.0  # pixels


@dataclass(frozen=True)
class Photograph:
    """A row of the table; `cut` is "alpha", "half" (the left half of a sheet), "ground" or "whole"."""

    label: str
    package: str
    file: str
    cut: str
    held_out: bool


def read_table() -> list[Photograph]:
    """Read the table of photographs."""
    lines = [line for line in TABLE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    rows = [line.split("\t") for line in lines]
    return [Photograph(row[0], row[1], row[2], row[3], held_out=row[4:] == ["v"]) for row in rows]


def free_files(readme: str) -> Iterator[str]:
    """Names of the files that a README of GCompris declares free; its paragraphs have a licence and list files."""
    for paragraph in readme.split("\n\n"):
        lines = [line.strip() for line in paragraph.splitlines()]
        licences = [line.split(":", 1)[1].strip().lower() for line in lines if line.lower().startswith("licen")]
        if licences and licences[0] in FREE:
            yield from (line for line in lines if ":" not in line)


def cut_from_ground(image: Image.Image) -> Image.Image:
    """Cut out what differs from the ground at the picture's rim, by GrabCut (Rother et al. 2004)."""
    import cv2

    image = image.convert("RGB")
    image.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.LANCZOS)
    pixels = np.asarray(image)[..., ::-1].copy()
    height, width = pixels.shape[:2]
    inner = (round(RIM * width), round(RIM * height), round(width * (1 - 2 * RIM)), round(height * (1 - 2 * RIM)))
    mask, ground, figure = np.zeros((height, width), np.uint8), np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(pixels, mask, inner, ground, figure, 6, cv2.GC_INIT_WITH_RECT)
    found = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    _, parts, sizes, _ = cv2.connectedComponentsWithStats(found)
    areas = sizes[1:, cv2.CC_STAT_AREA]
    kept = 1 + (areas >= LEAST_PART * areas.max(initial=0)).nonzero()[0]
    solid = cv2.morphologyEx(np.isin(parts, kept).astype(np.uint8), cv2.MORPH_CLOSE, np.ones((3, 3), np.uint8))
    blurred = cv2.GaussianBlur(solid.astype(np.float32), (0, 0), SOFTNESS)
    # A little inside the edge, whose pixels show some of the ground.
    alpha = ((blurred - 0.45) / 0.4).clip(0, 1) * 255
    image.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    return image


def cutout(data: bytes, cut: str) -> Image.Image:
    """Cut out an object: RGBA, cropped, its longer side at most `CUTOUT_SIDE` pixels."""
    with Image.open(io.BytesIO(data)) as file:
        image = cut_from_ground(file) if cut == "ground" else file.convert("RGBA")
    if cut == "half":
        image = image.crop((0, 0, image.width // 2, image.height))
    image = image.crop(image.getchannel("A").point(lambda value: 255 * (value > 127)).getbbox())
    image.thumbnail((CUTOUT_SIDE, CUTOUT_SIDE), Image.Resampling.LANCZOS)
    if cut == "half":  # drawn without half-transparent pixels
        image.putalpha(image.getchannel("A").filter(ImageFilter.GaussianBlur(0.5)))
    return image


def background(data: bytes) -> Image.Image:
    """Reduce a photograph to paste on: RGB, its shorter side at most `BACKGROUND_SIDE` pixels."""
    with Image.open(io.BytesIO(data)) as file:
        image = file.convert("RGB")
    scale = min(1.0, BACKGROUND_SIDE / min(image.size))
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)


class Material:
    """Files of the downloaded packages."""

    def __init__(self, folders: dict[str, Path]) -> None:
        self._folders = folders
        self._archives: dict[str, dict[str, bytes]] = {}

    def read(self, photograph: Photograph) -> bytes:
        """The bytes of a photograph; PackageError if it is not there, or not free."""
        folder = self._folders[photograph.package]
        if ":" not in photograph.file:
            return (folder / photograph.file).read_bytes()
        name, _, file = photograph.file.partition(":")
        if name not in self._archives:
            archive = folder / RESOURCES / f"{name}.rcc"
            self._archives[name] = {str(path): data for path, data in read_resources(archive)}
        files = self._archives[name]
        if file not in files:
            raise PackageError(f"{name}.rcc has no {file}")
        if file not in self._free(files):
            raise PackageError(f"{name}.rcc: the README does not declare {file} free")
        return files[file]

    def _free(self, files: dict[str, bytes]) -> set[str]:
        found = set()
        for path, data in files.items():
            folder, _, name = path.rpartition("/")
            if name == "README":
                found |= {f"{folder}/{file}" for file in free_files(data.decode("utf-8", "replace"))}
        return found


def rebuild(out: Path, photographs: Sequence[Photograph], material: Material) -> int:
    """Write the pack; its number of pictures."""
    index: dict[str, list[dict[str, object]]] = {"cutouts": [], "backgrounds": []}
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as pack:
        for number, one in enumerate(photographs):
            data, whole = material.read(one), one.cut == "whole"
            image, kind = (background(data), "backgrounds") if whole else (cutout(data, one.cut), "cutouts")
            name = f"{kind}/{number:03}.{'jpg' if whole else 'png'}"
            stored = io.BytesIO()
            image.save(stored, "JPEG" if whole else "PNG", quality=90)
            pack.writestr(name, stored.getvalue())
            index[kind].append({"file": name, "label": one.label, "source": one.file, "held_out": one.held_out})
        pack.writestr(INDEX, json.dumps(index, ensure_ascii=False, indent=1))
    return len(photographs)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status."""
    parser = argparse.ArgumentParser(description="Rebuild the photo pack from Debian packages.")
    parser.add_argument("out", type=Path, help="zip file to write")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        folders = {name: download(f"{name}={version}", Path(folder)) for name, version in PACKAGES.items()}
        count = rebuild(args.out, read_table(), Material(folders))
    print(f"wrote {count} pictures to {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
