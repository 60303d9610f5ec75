"""Small data sets of coloured squares in every format, and recipes for them."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import TypeAdapter

from models.data.datasets import OpenContext, WeightedSet, open_sets
from models.training.recipe import SetTable
from server.contract.manifest import Preprocessing

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (40, 40, 230), "white": (250, 250, 250)}
NAMES = tuple(COLOURS)
SIZE = Preprocessing(resize="shorter_longer", shorter=64, longer=96, mean=(0.4, 0.4, 0.4), std=(0.3, 0.3, 0.3))
TABLES: TypeAdapter[tuple[SetTable, ...]] = TypeAdapter(tuple[SetTable, ...])


def opened(tables: list[dict[str, Any]], folder: Path, *, held_out: bool = False) -> tuple[WeightedSet, ...]:
    """The opened sets of a recipe's tables."""
    return open_sets(TABLES.validate_python(tables), OpenContext(folder, SIZE, held_out=held_out))


def picture(number: int, *, size: tuple[int, int] = (60, 80)) -> tuple[Image.Image, list[tuple[str, list[int]]]]:
    """A grey picture of (height, width) `size` with one or two coloured squares, and their colours and x, y, w, h."""
    rng = np.random.default_rng(number)
    pixels = np.full((*size, 3), 90, np.uint8)
    things: list[tuple[str, list[int]]] = []
    for half in range(1 + number % 2):
        name, side = NAMES[(number + half) % len(NAMES)], int(rng.integers(16, 30))
        x = int(rng.integers(0, size[1] // 2 - side)) + half * size[1] // 2
        y = int(rng.integers(0, size[0] - side))
        pixels[y : y + side, x : x + side] = COLOURS[name]
        things.append((name, [x, y, side, side]))
    return Image.fromarray(pixels), things


def png(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def write_pictures(folder: Path, count: int) -> list[list[tuple[str, list[int]]]]:
    """Pictures 0.png, 1.png, ... in `folder`, and what is on each."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for number in range(count):
        image, things = picture(number)
        image.save(folder / f"{number}.png")
        found.append(things)
    return found


def coco(folder: Path, count: int = 6) -> dict[str, Any]:
    """A COCO set: its data, also written to `coco.json`."""
    everything = write_pictures(folder / "pictures", count)
    data: dict[str, Any] = {
        "images": [{"id": 100 + n, "file_name": f"{n}.png", "height": 60, "width": 80} for n in range(count)],
        "annotations": [],
        "categories": [{"id": 10 + place, "name": name} for place, name in enumerate(NAMES)],
    }
    for number, things in enumerate(everything):
        for name, box in things:
            entry = {"id": len(data["annotations"]), "image_id": 100 + number, "bbox": box, "iscrowd": 0}
            data["annotations"].append({**entry, "category_id": 10 + NAMES.index(name)})
    rewrite(folder, data)
    return data


def rewrite(folder: Path, data: dict[str, Any]) -> None:
    (folder / "coco.json").write_text(json.dumps(data))


def grounding_line(number: int) -> dict[str, Any]:
    """An ODVG grounding record of picture `number`."""
    _, things = picture(number)
    caption = " and ".join(f"a {name} square" for name, _ in things)
    regions = [
        {
            "bbox": [x, y, x + w, y + h],
            "phrase": f"a {name} square",
            "tokens_positive": [[start, start + len(name) + 9]],
        }
        for name, (x, y, w, h) in things
        for start in [caption.index(f"a {name}")]
    ]
    return {
        "filename": f"{number}.png",
        "height": 60,
        "width": 80,
        "grounding": {"caption": caption, "regions": regions},
    }


def odvg(folder: Path, count: int = 6) -> list[dict[str, Any]]:
    """An ODVG set of grounding and, every third line, detection records: also written to `odvg.jsonl`."""
    everything = write_pictures(folder / "pictures", count)
    lines = []
    for number, things in enumerate(everything):
        line = grounding_line(number)
        if number % 3 == 2:
            instances = [{"bbox": [x, y, x + w, y + h], "label": NAMES.index(name)} for name, (x, y, w, h) in things]
            del line["grounding"]
            line["detection"] = {"instances": instances}
        lines.append(line)
    write_lines(folder / "odvg.jsonl", lines)
    (folder / "labels.json").write_text(json.dumps({str(place): name for place, name in enumerate(NAMES)}))
    return lines


def write_lines(file: Path, lines: list[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def captions(folder: Path, count: int = 8) -> Path:
    """A folder of pictures with a .txt file each."""
    everything = write_pictures(folder, count)
    for number, things in enumerate(everything):
        (folder / f"{number}.txt").write_text("".join(f"a {name} square\n" for name, _ in things))
    return folder


def shard(file: Path, numbers: range, *, extra: dict[str, bytes] | None = None) -> None:
    """A tar of pictures with captions, and any further members."""
    members: dict[str, bytes] = {}
    for number in numbers:
        image, things = picture(number)
        members[f"part/{number:04d}.png"] = png(image)
        members[f"part/{number:04d}.txt"] = f"a {things[0][0]} square".encode()
    with tarfile.open(file, "w") as archive:
        for name, data in {**members, **(extra or {})}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def shards(folder: Path, sizes: tuple[int, ...] = (4, 3, 5)) -> tuple[Path, ...]:
    """Shards 000.tar, 001.tar, ... of so many samples."""
    folder.mkdir(parents=True, exist_ok=True)
    start, files = 0, []
    for place, size in enumerate(sizes):
        files.append(folder / f"{place:03d}.tar")
        shard(files[-1], range(start, start + size))
        start += size
    return tuple(files)
