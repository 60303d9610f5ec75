"""Drawn pictures of a job, with the server's own drawing (extra `cpu` or `gpu`)."""

import io
from pathlib import Path

from openset.label.derived_files import is_up_to_date, put, remove_others
from openset.label.formats import Labelled

JPEG_QUALITY = 90


def draw_pictures(labelled: Labelled, folder: Path) -> Path:
    """`drawn/`: each picture as JPEG with its boxes; those drawn before are kept while it is the same."""
    from PIL import Image

    from server.contract.image_file import FORMATS, OPTIONAL_FORMATS, decode
    from server.inference.drawing import Mark, draw

    target = folder / "drawn"
    written: set[Path] = set()
    for each, stem in labelled.stems():
        path, source = target / f"{stem}.jpg", labelled.path(each.image)
        written.add(path)
        if is_up_to_date(path, source):
            continue
        image = decode(
            source.read_bytes(),
            name=each.image,
            max_pixels=each.width * each.height,
            formats=(*FORMATS, *OPTIONAL_FORMATS),
        )
        found = [Mark(box.box, box.label, box.label_id, box.score) for box in each.detections]
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.parent / ".part"  # a name as long as the picture's may be as long as the disk allows
        Image.open(io.BytesIO(draw(image, found))).save(part, "JPEG", quality=JPEG_QUALITY)
        put(part, path, source)
    remove_others(target, written)
    return target
