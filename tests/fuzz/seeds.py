"""Inputs to start fuzzing from: one of each kind that has been read wrongly somewhere, made here."""

import io
import json
import struct
import zlib

import numpy as np
from PIL import Image

from server.contract import heic
from tests.server.fakes import manifest, picture

SIZE = (24, 16)
RECORD_FORMATS = ("coco.json", "odvg.jsonl", "captions.csv", "captions.tsv", "captions.jsonl", "label_map.json")
_ORIENTATION, _X_RESOLUTION, _GPS_ALTITUDE_REF = 0x0112, 0x011A, 0x8825


def pictures() -> dict[str, bytes]:
    """Small pictures of every format, with odd modes, damaged EXIF, large text chunks, thumbnails and no end."""
    made = {
        "plain.jpg": picture(size=SIZE, form="JPEG"),
        "progressive.jpg": picture(size=SIZE, form="JPEG", progressive=True),
        "cmyk.jpg": picture(size=SIZE, form="JPEG", mode="CMYK"),
        "palette.png": picture(size=SIZE, mode="P"),
        "bilevel.png": picture(size=SIZE, mode="1"),
        "alpha.png": picture(size=SIZE, mode="LA"),
        "palette.gif": picture(size=SIZE, form="GIF"),
        "lossless.webp": picture(size=SIZE, form="WEBP", lossless=True),
        "lossy.webp": picture(size=SIZE, form="WEBP"),
        "plain.bmp": picture(size=SIZE, form="BMP"),
        "rle.bmp": _rle_bitmap(),
        "deflate.tif": picture(size=SIZE, form="TIFF", compression="tiff_adobe_deflate"),
        "jpeg.tif": picture(size=SIZE, form="TIFF", compression="jpeg"),
    }
    if heic.is_installed():
        heic.register()
        made["plain.heic"] = picture(size=SIZE, form=heic.FORMAT)
    made["no_end.jpg"] = made["plain.jpg"][:-2]
    made["exif_resolution.jpg"] = _with_exif({_ORIENTATION: 6}, odd=_rational_entry(_X_RESOLUTION, 2**32 - 1, 0))
    made["exif_gps.jpg"] = _with_exif({_ORIENTATION: 3}, odd=struct.pack("<HHI4s", _GPS_ALTITUDE_REF, 2, 4, b"abc\0"))
    made["grey16.png"] = _saved(_grey16(), "PNG")
    made["grey16_turned.png"] = _saved(_grey16(), "PNG", exif=_exif({_ORIENTATION: 6}))
    made["grey16.tif"] = _saved(_grey16(), "TIFF")
    made["long_text.png"] = _with_chunk(made["palette.png"], b"zTXt", b"workflow\0\0" + zlib.compress(b"a" * 2**21))
    made["large_profile.png"] = _with_chunk(made["palette.png"], b"iCCP", b"icc\0\0" + zlib.compress(b"b" * 2**21))
    made["pages.tif"] = _saved(_grey16(), "TIFF", save_all=True, append_images=[Image.new("L", (4, 4))])
    made["animated.webp"] = _saved(Image.new("RGB", SIZE), "WEBP", save_all=True, append_images=[Image.new("RGB", SIZE, "red")])  # fmt: skip # noqa: E501
    return made


def records() -> dict[str, bytes]:
    """Annotations of every format, whose first line is the format."""
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 10, 8], "area": 80, "iscrowd": 0}
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "width": 24, "height": 16, "caption": "a dog runs"}],
        "categories": [{"id": 0, "name": "dog"}, {"id": 1, "name": "dog", "supercategory": "dog"}],
        "annotations": [box, box | {"id": 2, "bbox": [0, 0, 0, 0]}, box | {"id": 3, "tokens_positive": [[2, 5]]}],
    }
    odvg = {"filename": "a.jpg", "width": 24, "height": 16}
    detection = odvg | {"detection": {"instances": [{"bbox": [1, 2, 9, 8], "label": 0, "category": "dog"}]}}
    region = {"bbox": [1, 2, 9, 8], "phrase": "dog", "tokens_positive": [[2, 5]]}
    grounding = odvg | {"grounding": {"caption": "a dog runs", "regions": [region]}}
    contents = {
        "coco.json": json.dumps(coco),
        "odvg.jsonl": f"{json.dumps(detection)}\n{json.dumps(grounding)}\n",
        "captions.csv": 'image,caption\na.jpg,"a dog, running"\n',
        "captions.tsv": "image\tcaption\na.jpg\ta dog\n",
        "captions.jsonl": '{"image": "a.jpg", "caption": ["a dog", "it runs"]}\n',
        "label_map.json": '{"0": "dog", "1": "cat"}',
    }
    odd = {
        "nan": contents["coco.json"].replace("80", "NaN"),
        "huge": contents["coco.json"].replace("80", "1" * 400),
        "null": contents["coco.json"].replace("[1, 2, 10, 8]", "null"),
        "mark": "\ufeff" + contents["coco.json"],
        "deep": '{"images": ' + "[" * 500 + "]" * 500 + "}",
    }
    made = {f"{form}": f"{form}\n{content}" for form, content in contents.items()}
    made |= {f"{kind}.coco.json": f"coco.json\n{content}" for kind, content in odd.items()}
    assert set(contents) == set(RECORD_FORMATS)
    return {name: content.encode() for name, content in made.items()}


def manifests() -> dict[str, bytes]:
    """Manifests of a detector and of an encoder."""
    part = {"part": "image_encoder", "opset": 17, "file": "image_encoder.onnx", "sha256": "0" * 64}
    rules = {"resize": "shorter_crop", "shorter": 16, "mean": [0, 0, 0], "std": [1, 1, 1]}
    encoder = manifest(
        name="encoder", family="clip", preprocessing=rules, classification={"logit_scale": 10},
        text={"style": "sentence", "max_tokens": 40, "start_id": 1, "end_id": 2, "pad_id": 0},
        artefacts=[part, part | {"part": "text_encoder", "file": "text_encoder.onnx"}],
    )  # fmt: skip
    made = encoder.model_dump_json()
    return {
        "encoder": made.encode(),
        "nan": made.replace("10", "NaN").encode(),
        "short": made[: len(made) // 2].encode(),
    }


def bodies() -> dict[str, bytes]:
    """Requests, whose first line is the path and the content type."""
    png = pictures()["palette.png"]
    form = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
    parts = form % (b"image", b'; filename="x"', png) + form % (b"labels", b"", b"dog") + b"--b--\r\n"
    tensor = {"name": "images", "shape": [1, 2, 2, 3], "datatype": "UINT8", "data": [0] * 12}
    texts = {"name": "labels", "shape": [1], "datatype": "BYTES", "data": ["dog"]}
    infer = json.dumps({"inputs": [tensor, texts]}).encode()
    return {
        "detect_json": b'/detect application/json\n{"image": "iVBORw0KGgo=", "labels": ["dog"]}',
        "classify_json": b'/classify application/json\n{"images": [], "labels": ["dog", "cat"], "top_k": 1}',
        "similarity_json": b'/similarity application/json\n{"image": "", "texts": ["a dog"], "embeddings": true}',
        "marked_json": b"/detect application/json\n\xef\xbb\xbf{}",
        "empty_lists": b"/detect application/json\n" + b"[" + b"[]," * 200 + b"[]]",
        "form": b"/detect multipart/form-data; boundary=b\n" + parts,
        "codec_form": b"/detect multipart/form-data; boundary=b; charset=punycode\n" + parts,
        "raw": b"/detect?labels=dog&box_threshold=0.2 image/png\n" + png,
        "infer": b"/v2/models/fake-detector/infer application/json\n" + infer,
        "infer_many": b"/v2/models/fake-encoder/infer application/json\n"
        + infer.replace(b"[1, 2, 2, 3]", b"[9999, 1, 1, 3]"),
        "line_end": b"/classify%0A application/json\n{}",
    }


def _saved(image: Image.Image, form: str, **options: object) -> bytes:
    encoded = io.BytesIO()
    image.save(encoded, form, **options)
    return encoded.getvalue()


def _grey16() -> Image.Image:
    return Image.fromarray(np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE[::-1]) * 100)


def _exif(entries: dict[int, int]) -> bytes:
    exif = Image.Exif()
    exif.update(entries)
    return exif.tobytes()


def _rational_entry(tag: int, numerator: int, denominator: int) -> bytes:
    """A TIFF entry of a signed rational that points before the data."""
    return struct.pack("<HHII", tag, 10, 1, numerator) if denominator else struct.pack("<HHII", tag, 10, 1, 0)


def _with_exif(entries: dict[int, int], *, odd: bytes) -> bytes:
    """A JPEG with EXIF data of `entries` (16-bit values) and one `odd` entry of 12 bytes beside them."""
    rows = [struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in entries.items()] + [odd]
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", len(rows)) + b"".join(rows) + bytes(4)
    plain = picture(size=SIZE, form="JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(data) + 8) + b"Exif\0\0" + data + plain[2:]


def _with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """`png` with one more chunk after its header."""
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return png[:33] + chunk + png[33:]


def _rle_bitmap() -> bytes:
    """A BMP of 8 bits a pixel in run-length encoding, of SIZE."""
    width, height = SIZE
    rows = bytes((width, 1, 0, 0)) * height + b"\0\1"
    offset = 54 + 8
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 2, 0)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + b"\0\0\0\0\xff\xff\xff\0" + rows
