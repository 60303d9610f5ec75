"""Drawn pictures of a job, with the server's own drawing (extra `cpu` or `gpu`)."""

import io
from pathlib import Path

from openset.label.formats import Labelled

JPEG_QUALITY = 90


def draw_pictures(labelled: Labelled, folder: Path) -> Path:
    """`drawn/`: each picture as JPEG with its boxes; those drawn before are kept, with the boxes they had."""
    from PIL import Image

    from server.contract.image_file import FORMATS, OPTIONAL_FORMATS, decode
    from server.inference.drawing import Mark, draw

    target = folder / "drawn"
    for each, stem in labelled.stems():
        path = target / f"{stem}.jpg"
        if path.exists():
            continue
        image = decode(
            labelled.path(each.image).read_bytes(),
            name=each.image,
            max_pixels=each.width * each.height,
            formats=(*FORMATS, *OPTIONAL_FORMATS),
        )
        found = [Mark(box.box, box.label, box.label_id, box.score) for box in each.detections]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.parent / ".part"  # a name as long as the picture's may be as long as the disk allows
        Image.open(io.BytesIO(draw(image, found))).save(part, "JPEG", quality=JPEG_QUALITY)
        part.replace(path)
    return target
