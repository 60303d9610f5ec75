"""Drawn pictures of a job, with the server's own drawing (extra `cpu` or `gpu`)."""

import io
from pathlib import Path

from openset.label.formats import Labelled

JPEG_QUALITY = 90


def draw_pictures(labelled: Labelled, folder: Path) -> Path:
    """`drawn/`: each picture as JPEG with its boxes; those drawn before are kept."""
    from PIL import Image

    from server.contract.image_file import FORMATS, OPTIONAL_FORMATS, decode
    from server.inference.drawing import Mark, draw

    target = folder / "drawn"
    for each in labelled.results():
        path = target / f"{each.image}.jpg"
        if path.exists():
            continue
        image = decode(
            labelled.picture(each.image).read(),
            name=each.image,
            max_pixels=each.width * each.height,
            formats=(*FORMATS, *OPTIONAL_FORMATS),
        )
        found = [Mark(box.box, box.label, box.label_id, box.score) for box in each.detections]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        Image.open(io.BytesIO(draw(image, found))).save(part, "JPEG", quality=JPEG_QUALITY)
        part.replace(path)
    return target
