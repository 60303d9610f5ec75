"""What may be given as an image, and what is sent for it."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from server.client.errors import ImageError

Picture: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | npt.NDArray[np.uint8]
)  # a string is a path, or a URL if it begins like one
Pictures: TypeAlias = Picture | Sequence[Picture]

_ONE = (str, os.PathLike, bytes, bytearray, memoryview, Image.Image, np.ndarray)
_ACCEPTED = "a path, an http(s) URL, bytes, a PIL image, or a numpy array (uint8, height x width x 3, RGB)"
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_COLOUR_MODES = {"CMYK", "HSV", "LAB", "RGBX", "RGBa", "YCbCr"}  # PNG has none of them


@dataclass(frozen=True)
class Url:
    """An address that the server is to fetch."""

    address: str


def one_by_one(images: Pictures) -> list[Picture]:
    """The images given, which are looked at before the first is sent; ImageError names one that cannot be."""
    given: Sequence[Any] = [images] if isinstance(images, _ONE) else images
    if not isinstance(given, Sequence):
        raise ImageError(f"images must be {_ACCEPTED}, or a list of them; got {type(images).__name__}")
    if not given:
        raise ImageError("give at least one image")
    for place, image in enumerate(given, 1):
        _check(image, f"image {place} of {len(given)}" if len(given) > 1 else "the image")
    return list(given)


def encoded(image: Picture) -> bytes | Url:
    """What is sent: the bytes of a file as they are, pixels as PNG, or the address for the server to fetch.

    A PIL image is its pixels as they stand: an orientation in its EXIF data is not sent, so boxes fit what was given.
    """
    if isinstance(image, str) and _is_url(image):
        return Url(image)
    if isinstance(image, str | os.PathLike):
        return _read(Path(image))
    if isinstance(image, np.ndarray):
        return _png(Image.fromarray(image))
    if isinstance(image, Image.Image):
        return _png(image)
    return bytes(image)


def _check(image: Any, name: str) -> None:
    if not isinstance(image, _ONE):
        raise ImageError(f"{name} must be {_ACCEPTED}; got {type(image).__name__}")
    if isinstance(image, np.ndarray):
        fits = image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size
        if not fits:
            raise ImageError(f"{name} must be uint8, height x width x 3, RGB; got {image.dtype}, {image.shape}")
    elif isinstance(image, Image.Image):
        if image.mode not in _PNG_MODES | _COLOUR_MODES:
            raise ImageError(f"{name} has the mode {image.mode}: convert it to RGB")
        if not image.width or not image.height:
            raise ImageError(f"{name} is {image.width} x {image.height} pixels")
    elif isinstance(image, str | os.PathLike) and not _is_url(image) and not os.path.isfile(image):
        raise ImageError(f"{name}: there is no file {os.fspath(image)!r}")


def _is_url(image: str | os.PathLike[str]) -> bool:
    return isinstance(image, str) and image.lower().startswith(("http://", "https://"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error


def _png(image: Image.Image) -> bytes:
    """The pixels, losslessly; of the colour modes that PNG lacks, as RGB, which the server would make of them too."""
    file = io.BytesIO()
    try:
        pixels = image.convert("RGB") if image.mode in _COLOUR_MODES else image
        pixels.save(file, "PNG", compress_level=1, exif=None, icc_profile=None)  # the least effort, a third of the time
    except OSError as error:  # a PIL image may read its file as late as here
        raise ImageError(f"an image cannot be read: {error}") from error
    return file.getvalue()
