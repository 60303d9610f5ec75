"""Work on one encoded image: decoding to model input, or drawing on it; the same in a decoder process and in this one.

Decoder processes import this module, hence no other of the server's but its drawing and the contract's images.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from server.contract.image import preprocess, resized_size
from server.contract.image_file import FORMATS, load, may_turn, no_memory, open_image, webp_size
from server.inference.drawing import Mark, draw

# Memory for an image beside which others are decoded: a phone's photo of 12 megapixels for the largest input.
USUAL_BYTES = 112 * 2**20
# Bytes of memory that decoding takes for each pixel at most, of each format, besides the file; measured with Pillow 13.
# WebP: two canvases of the decoder, its output and the picture.
_DECODER_BYTES = {"WEBP": 16, "AVIF": 10, "HEIF": 12}
_PICTURE_BYTES = 4  # also of pictures with three channels
_FLOAT_BYTES = 4
Empty = Callable[[tuple[int, ...]], npt.NDArray[np.float32]]


class Work(NamedTuple):
    """An image to decode as input of a model with these `rules` (of its manifest), or to draw `marks` on."""

    data: bytes
    name: str  # in errors
    max_pixels: int
    formats: Sequence[str] = FORMATS
    rules: Mapping[str, Any] | None = None
    marks: Sequence[Mark] = ()


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A decoded image as model input."""

    pixels: npt.NDArray[np.float32]  # [3, h, w]
    size: tuple[int, int]  # (height, width) of the upright image
    started: float  # `time.monotonic`
    decoded: float
    ended: float

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of `pixels`."""
        _, height, width = self.pixels.shape
        return height, width


def opened(work: Work) -> Image.Image:
    """The image with its pixels still encoded; an ImageFileError where it is refused."""
    return open_image(work.data, name=work.name, max_pixels=work.max_pixels, formats=work.formats)


def prepare(work: Work, image: Image.Image, *, empty: Empty | None = None) -> PreparedImage:
    """Decode and preprocess the image of `opened`; `empty` makes the array of its pixels."""
    started, rules = time.monotonic(), _rules(work)
    short, long = sorted(image.size)
    smaller = _decode_smaller(image, rules)
    try:
        image = load(image, work.data, name=work.name)
        decoded, size = time.monotonic(), (image.height, image.width)
        if smaller:
            size = (short, long) if image.height <= image.width else (long, short)
        pixels = preprocess(image, rules, size=size, empty=empty)
    except MemoryError:
        raise no_memory(work.name) from None
    return PreparedImage(pixels, size, started, decoded, time.monotonic())


def draw_on(work: Work, image: Image.Image) -> bytes:
    """The image of `opened`, decoded, as PNG with the marks drawn on it."""
    try:
        return draw(load(image, work.data, name=work.name), work.marks)
    except MemoryError:
        raise no_memory(work.name) from None


def opening_bytes(work: Work) -> int:
    """The most memory that `opened` takes, besides small change; of a WebP picture all that it takes to decode."""
    width, height = webp_size(work.data) or (0, 0)
    return 2 * len(work.data) + _DECODER_BYTES["WEBP"] * width * height  # the file, and without its metadata


def memory_bytes(work: Work, image: Image.Image) -> int:
    """The most memory that the work on the image of `opened` takes."""
    pixels = image.width * image.height
    file, picture = 2 * len(work.data), _PICTURE_BYTES * pixels
    decoding = _DECODER_BYTES.get(image.format or "", _PICTURE_BYTES) * pixels
    if image.format == "JPEG" and "progressive" in image.info:  # kept as 16-bit coefficients until its last scan
        decoding += 2 * len(image.getbands()) * pixels
    changed = picture if image.mode != "RGB" or may_turn(image) else 0
    if work.rules is None:
        return file + max(decoding, 2 * picture) + picture  # the canvas, and as PNG
    height, width = resized_size(image.height, image.width, _rules(work))
    return file + max(decoding, picture + changed, picture + 3 * 3 * _FLOAT_BYTES * height * width)


def _decode_smaller(image: Image.Image, rules: Any) -> bool:
    """Have a JPEG decoded at a half, a quarter or an eighth of its sides, as far as the rules' `reducing_gap` allows.

    Only where that leaves no part of a pixel, which would shift the boxes. True where it will be.
    """
    if rules.reducing_gap is None or not isinstance(image, JpegImageFile):
        return False
    least = rules.reducing_gap * min(resized_size(image.height, image.width, rules))
    for part in (8, 4, 2):
        if image.width % part == image.height % part == 0 and min(image.size) >= part * least:
            image.draft(None, (image.width // part, image.height // part))
            return True
    return False


def _rules(work: Work) -> Any:
    assert work.rules is not None, "an image is prepared for a model"
    return cast(Any, SimpleNamespace(**work.rules))
