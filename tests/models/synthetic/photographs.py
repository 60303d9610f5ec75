"""A small photo pack of flat cut-outs on two-coloured photographs."""

import io
import json
import zipfile
from pathlib import Path

from PIL import Image, ImageDraw

from models.synthetic.photo_pack import INDEX

LABELS = {"dog": "red", "teapot": "lime", "lorry": "blue"}
HELD_OUT = {"yak": "yellow", "kettle": "cyan"}


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    data = io.BytesIO()
    image.save(data, kind)
    return data.getvalue()


def flat_cutout(colour: str) -> Image.Image:
    """An ellipse on nothing."""
    image = Image.new("RGBA", (120, 80))
    ImageDraw.Draw(image).ellipse((0, 0, 119, 79), fill=colour)
    return image


def write_photographs(file: Path) -> Path:
    """Write the pack: an object a label, and two photographs to train and one to validate with."""
    index: dict[str, list[dict[str, object]]] = {"cutouts": [], "backgrounds": []}
    with zipfile.ZipFile(file, "w") as pack:
        for label, colour in {**LABELS, **HELD_OUT}.items():
            pack.writestr(f"cutouts/{label}.png", encoded(flat_cutout(colour)))
            index["cutouts"].append({"file": f"cutouts/{label}.png", "label": label, "held_out": label in HELD_OUT})
        for number, grey in enumerate((40, 90, 140)):
            name = f"backgrounds/{number}.png"
            pack.writestr(name, encoded(Image.new("RGB", (200, 150), (grey, grey, grey))))
            index["backgrounds"].append({"file": name, "held_out": number == 2})
        pack.writestr(INDEX, json.dumps(index))
    return file
