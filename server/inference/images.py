"""Image decoding: bytes to one upright image within bounds, and to model input."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from server.errors import BrokenImage, ImageTooLarge, UnsupportedImage

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_ASPECT_RATIO = 100.0  # longer over shorter side: the model's input of a thin strip would be huge
# Colour modes that `convert("RGB")` renders as a person sees them.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """A decoded image as model input; `image` is kept only where it will be drawn on."""

    pixels: npt.NDArray[np.float32]  # [3, h, w]
    size: tuple[int, int]  # (height, width) of the upright image
    image: Image.Image | None
    started: float  # `time.monotonic`
    decoded: float
    ended: float

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of `pixels`."""
        _, height, width = self.pixels.shape
        return height, width


def prepare(
    data: bytes,
    preprocess: Callable[[Image.Image], npt.NDArray[np.float32]],
    *,
    name: str,
    max_pixels: int,
    keep_image: bool,
) -> PreparedImage:
    """Decode and preprocess one image; a Fault calls it `name`."""
    started = time.monotonic()
    image = decode(data, name=name, max_pixels=max_pixels)
    decoded = time.monotonic()
    pixels = preprocess(image)
    size = (image.height, image.width)
    return PreparedImage(pixels, size, image if keep_image else None, started, decoded, time.monotonic())


def decode(data: bytes, *, name: str, max_pixels: int) -> Image.Image:
    """The upright image in `data`, in the colour mode it is stored in (16-bit grey becomes 8-bit).

    A Fault calls it `name`, such as "image 2 of 3". Conversion to RGB is left to the model's own preprocessing, since
    some models convert after resizing.
    """
    if not data:
        raise BrokenImage(f"{name} is empty")
    image = _open(data, name)
    _check_bounds(image, name, max_pixels)
    try:
        # A JPEG of several pictures (MPO, from phones) shows the first; others with frames are animations or documents.
        # (`n_frames` would read all frames, of which a small file may have a million.)
        still = image.format == "MPO" or not getattr(image, "is_animated", False)
        image.load()
    except Exception as error:  # decoders raise many types: OSError, SyntaxError, struct.error, ...
        raise BrokenImage(f"{name} is a damaged or truncated {image.format}") from error
    if not still:
        raise BrokenImage(f"{name} is animated or has several pages: send one still picture")
    return _upright(_eight_bit(image, name))


def _open(data: bytes, name: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageTooLarge(f"{name} has far more pixels than this server accepts") from None
    except Exception as error:  # a damaged header, see `decode`
        raise UnsupportedImage(
            f"{name} is not a picture in a format this server reads: {', '.join(FORMATS)}"
        ) from error


def _check_bounds(image: Image.Image, name: str, max_pixels: int) -> None:
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLarge(
            f"{name} is {width} x {height} = {width * height} pixels, at most {max_pixels} are accepted"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ImageTooLarge(
            f"{name} is {width} x {height} pixels: one side may be at most {MAX_ASPECT_RATIO:g} times the other"
        )


def _eight_bit(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        upper = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(upper.astype(np.uint8))
    if image.mode not in _MODES:
        raise BrokenImage(f"{name} has colour mode {image.mode}, which cannot be shown as RGB: convert it first")
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # damaged EXIF data says nothing about the orientation
        return image
