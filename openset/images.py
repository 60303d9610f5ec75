"""Images as the clients take them, and as they are sent. Pillow and numpy are used only where an image is of theirs."""

import errno
import io
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from openset.errors import ImageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from PIL import Image

# A string is a path, or a URL if it begins like one.
ImageInput: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | Image.Image | npt.NDArray[np.uint8]"
)
ImageInputs: TypeAlias = "ImageInput | Sequence[ImageInput]"

_PLAIN = (str, os.PathLike, bytes, bytearray, memoryview)
_ACCEPTED = (
    "a path, an http(s) URL, bytes, an open file, a PIL image, or a numpy array (uint8, height x width x 3, RGB)"
)
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_COLOUR_MODES = {"CMYK", "HSV", "LAB", "RGBX", "RGBa", "YCbCr"}  # PNG has none of them

_MOST_BYTES = 2**30


@dataclass(frozen=True)
class Url:
    """Address of an image for the server to fetch."""

    address: str


def as_list(images: ImageInputs, *, files_exist: bool = True) -> list[ImageInput]:
    """List of the images given, all checked before the first is sent; ImageError names one that cannot be.

    `files_exist`: a path must lead to a file already.
    """
    one = isinstance(images, _PLAIN) or _is_array(images) or _is_pil(images) or _is_open_file(images)
    given: Sequence[Any] = [images] if one else images  # type: ignore[assignment]
    if not isinstance(given, Sequence):
        raise ImageError(f"images must be {_ACCEPTED}, or a list of them; got {type(images).__name__}")
    if not given:
        raise ImageError("give at least one image")
    for place, image in enumerate(given, 1):
        _check(image, f"image {place} of {len(given)}" if len(given) > 1 else "the image", files_exist)
    return list(given)


def encoded(image: Any) -> bytes | Url:
    """Encode one checked image: the bytes of a file as they are, pixels as PNG, or the address to fetch.

    A PIL image is its pixels as they stand: an orientation in its EXIF data is not sent, so boxes fit what was given.
    """
    if _is_url(image):
        return Url(image)
    if isinstance(image, str | os.PathLike):
        return _read(Path(image))
    if _is_array(image):
        from PIL import Image

        return _png(Image.fromarray(image))
    if _is_pil(image):
        return _png(image)
    return _rest_of(image) if _is_open_file(image) else bytes(image)


def read_regular(path: Path) -> bytes:
    """Read the bytes of a file; OSError for a pipe, socket or device, which may have no end, or a gibibyte and more."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if found.st_size > _MOST_BYTES:
        raise OSError(errno.EFBIG, f"it has {found.st_size} bytes, at most {_MOST_BYTES} are read", str(path))
    return path.read_bytes()


def name_of(image: object) -> str:
    """Path or URL of an image, empty for one that has none."""
    return os.fsdecode(image) if isinstance(image, str | os.PathLike) else ""


def _check(image: Any, name: str, files_exist: bool) -> None:
    if _is_array(image):
        if not (image.dtype == "uint8" and image.ndim == 3 and image.shape[2] == 3 and image.size):
            raise ImageError(f"{name} must be uint8, height x width x 3, RGB; got {image.dtype}, {image.shape}")
        if not find_spec("PIL"):
            raise ImageError(f"{name} is a numpy array, which Pillow compresses: pip install pillow")
    elif _is_pil(image):
        if image.mode not in _PNG_MODES | _COLOUR_MODES:
            raise ImageError(f"{name} has the mode {image.mode}: convert it to RGB")
        if not image.width or not image.height:
            raise ImageError(f"{name} is {image.width} x {image.height} pixels")
    elif _is_open_file(image):
        if isinstance(image, io.TextIOBase):
            raise ImageError(f"{name} is a file opened as text: open it with mode 'rb'")
        if _is_device(image):
            raise ImageError(f"{name} is an open device, which may have no end")
    elif not isinstance(image, _PLAIN):
        raise ImageError(f"{name} must be {_ACCEPTED}; got {type(image).__name__}")
    elif files_exist and isinstance(image, str | os.PathLike) and not _is_url(image) and not os.path.isfile(image):
        if os.path.exists(image) and not os.path.isdir(image):
            raise ImageError(f"{name}: {os.fspath(image)!r} is a pipe, socket or device, which may have no end")
        raise ImageError(f"{name}: there is no file {os.fspath(image)!r}")


def _is_url(image: object) -> bool:
    return isinstance(image, str) and image.lower().startswith(("http://", "https://"))


def _is_array(image: object) -> bool:
    """True for a numpy array, which exists only where numpy has been imported."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(image, numpy.ndarray)


def _is_pil(image: object) -> bool:
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(image, pillow.Image)


def _is_open_file(image: object) -> bool:
    return callable(getattr(image, "read", None)) and not isinstance(image, os.PathLike)


def _is_device(file: Any) -> bool:
    try:
        mode = os.fstat(file.fileno()).st_mode
    except Exception:  # it is no file of the system's, or closed
        return False
    return stat.S_ISCHR(mode) or stat.S_ISBLK(mode)


def _rest_of(file: Any) -> bytes:
    """The bytes of an open file, from where it stands."""
    try:
        data = file.read()
    except (OSError, ValueError) as error:  # ValueError: it is closed
        raise ImageError(f"an open file cannot be read: {error}") from error
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ImageError(f"an open file gives {type(data).__name__}, not bytes: open it with mode 'rb'")
    if not data:
        raise ImageError("an open file has no bytes left: it is empty, or was read before")
    return bytes(data)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise ImageError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error


def _png(image: "Image.Image") -> bytes:
    """Compress pixels losslessly; colour modes that PNG lacks become RGB, as the server would make of them too."""
    file = io.BytesIO()
    try:
        pixels = image.convert("RGB") if image.mode in _COLOUR_MODES else image
        pixels.save(file, "PNG", compress_level=1, exif=None, icc_profile=None)  # the least effort, a third of the time
    except Exception as error:  # a PIL image may read its file as late as here, and decoders raise many types
        raise ImageError(f"an image cannot be read: {error}") from error
    return file.getvalue()
