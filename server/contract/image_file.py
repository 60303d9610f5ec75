"""Reader of image files, one for serving, training and evaluation: bytes to one upright picture within bounds.

Whatever the bytes are, an ImageFileError is all that it raises. Metadata is no part of the picture: damaged or huge
entries, profiles and texts are passed over.
"""

import io
import re
import struct
import zlib
from collections.abc import Sequence
from contextlib import suppress
from typing import cast

import numpy as np
from PIL import Image, TiffImagePlugin
from PIL.JpegImagePlugin import JpegImageFile

from server.contract import heic, jpeg_segments, tiff
from server.contract.jpeg_scans import has_all_scans

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
OPTIONAL_FORMATS = {"AVIF": "", "HEIC": " and the extra heic"}  # and what they need besides the setting
MAX_PIXELS = 178_000_000  # above it Pillow itself refuses
MAX_ASPECT_RATIO = 100.0  # longer over shorter side: the model's input of a thin strip would be huge
# Colour modes that `convert("RGB")` renders as a person sees them.
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
# Of EXIF and TIFF; it is a short, but cameras and editors write it in every integer type that fits an entry.
_ORIENTATION, _ORIENTATION_TYPES = 0x0112, {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = range(5, 9)
_TURNED_BACK = {_TURNS[6]: _TURNS[8], _TURNS[8]: _TURNS[6]}  # the others are their own opposites
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([0-9])")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_CHUNKS = {b"tRNS", b"acTL", b"fcTL", b"fdAT"}  # kept besides the critical ones and the orientation
_PNG_ORIENTATION = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")  # beginnings of texts that may tell it
_MAX_TEXT = 64 * 1024
_END_OF_JPEG = b"\xff\xd9"
# Entropy-coded bytes that begin with different bits, so that missing blocks do not come out alike.
_FILLINGS = tuple(bytes.fromhex(word) * 64 for word in ("5ac39917", "a53c66e8", "e71bd284"))
_STRIP = 64
_NAMES: dict[str | None, str] = {heic.FORMAT: "HEIC"}
_SIGNATURES = (
    *(("JPEG", b"\xff\xd8\xff"), ("PNG", _PNG), ("GIF", b"GIF8"), ("BMP", b"BM")),
    *(("TIFF", sign) for sign in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
)
# Brands in the first box of a file of the ISO base media format.
_BRANDS = (("AVIF", (b"avif", b"avis")), ("HEIC", (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1")))


class ImageFileError(ValueError):
    """A picture that is not read; the message calls it by the name that the caller gave."""


class UnsupportedFile(ImageFileError):
    """Bytes that are no picture in an accepted format."""


class DamagedFile(ImageFileError):
    """A picture that is truncated, damaged, animated, of several pages, or of a colour mode that cannot be shown."""


class OversizedPicture(ImageFileError):
    """A picture of too many pixels, too long for its width, or without room in memory."""


def decode(
    data: bytes,
    *,
    name: str,
    max_pixels: int = MAX_PIXELS,
    formats: Sequence[str] = FORMATS,
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """The upright picture in `data`, in the colour mode it is stored in (16-bit grey becomes 8-bit).

    An ImageFileError calls it `name`, such as "image 2 of 3". Conversion to RGB is left to the caller, since some
    models convert after resizing. size: the (height, width) of an annotation; a picture of this size only as stored is
    not turned upright.
    """
    return load(open_image(data, name=name, max_pixels=max_pixels, formats=formats), data, name=name, size=size)


def open_image(data: bytes, *, name: str, max_pixels: int, formats: Sequence[str] = FORMATS) -> Image.Image:
    """The picture in `data` with its pixels still encoded, of a size within bounds; see `decode`."""
    if not data:
        raise DamagedFile(f"{name} is empty")
    if size := webp_size(data):  # its decoder takes memory for the pixels as soon as it is opened
        _check_bounds(size, name, max_pixels)
    try:
        image = _opened(data, formats)
    except MemoryError:
        raise no_memory(name) from None
    except Image.DecompressionBombError:
        raise OversizedPicture(f"{name} has far more pixels than this server accepts") from None
    except Exception as error:  # decoders raise many types: OSError, SyntaxError, struct.error, ...
        raise UnsupportedFile(f"{name} {_foreign(data, formats)}") from error
    _check_bounds(image.size, name, max_pixels)
    return image


def webp_size(data: bytes) -> tuple[int, int] | None:
    """The (width, height) in the header of a WebP file (RFC 9649, 2.5 to 2.7); None for another or damaged file."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    if data[12:16] == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if data[12:16] == b"VP8L":
        sizes = int.from_bytes(data[21:25], "little")
        return (sizes & 0x3FFF) + 1, (sizes >> 14 & 0x3FFF) + 1
    if data[12:16] == b"VP8 ":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        return (width, height) if width and height else None
    return None


def load(image: Image.Image, data: bytes, *, name: str, size: tuple[int, int] | None = None) -> Image.Image:
    """Decode a picture of `open_image` with its `data`; see `decode`."""
    try:
        if _is_several(image):
            raise DamagedFile(f"{name} is animated or has several pages: send one still picture")
        # Pillow forgets a TIFF's orientation once it is loaded.
        orientation = tiff.number(image, _ORIENTATION) if image.format == "TIFF" else None
        told = image.size
        stored = _loaded(image, data)
        if image.format == heic.FORMAT and stored.size != told:  # bounds were those of its header
            raise DamagedFile(f"{name} is a damaged HEIC: its header tells another size")
        orientation = _orientation(stored) if orientation is None else orientation
        return _eight_bit(_upright(stored, orientation, size), image, name)
    except ImageFileError:
        raise
    except MemoryError:
        raise no_memory(name) from None
    except Exception as error:  # as above
        raise DamagedFile(f"{name} is a damaged or truncated {_NAMES.get(image.format, image.format)}") from error


def may_turn(image: Image.Image) -> bool:
    """True where a picture of `open_image` is stored otherwise than upright."""
    return (tiff.number(image, _ORIENTATION) if image.format == "TIFF" else _orientation(image)) in _TURNS


def upright_size(data: bytes, *, name: str) -> tuple[int, int]:
    """The (height, width) that `decode` gives the picture, by its head; an ImageFileError as of `open_image`."""
    image = open_image(data, name=name, max_pixels=MAX_PIXELS)
    width, height = image.size
    # A TIFF's own is that of the turned picture.
    return (width, height) if image.format != "TIFF" and _orientation(image) in _SIDEWAYS else (height, width)


def upright(image: Image.Image) -> Image.Image:
    """A picture turned upright by its EXIF orientation, whatever its other entries hold; OSError as of its decoder."""
    image.load()
    orientation = None
    with suppress(Exception):  # as above
        orientation = image.getexif().get(_ORIENTATION)  # which a program may have set
    return _upright(image, _orientation(image) if orientation is None else orientation)


def _opened(data: bytes, formats: Sequence[str]) -> Image.Image:
    if data.startswith(b"\xff\xd8\xff") and "JPEG" in formats:
        # A JPEG of several pictures (MPO, from phones) shows the first. Pillow's own choice reads their list first,
        # and fails where that is damaged.
        return JpegImageFile(io.BytesIO(jpeg_segments.picture(data, may_orient=_tells_orientation)))
    if data.startswith(_PNG):
        data = _png_picture(data)
    if "HEIC" in formats and _kind(data) == "HEIC":
        heic.register()
        formats = (heic.FORMAT,)
    else:
        formats = [name for name in formats if name != "HEIC"]
    image = Image.open(io.BytesIO(data), formats=tuple(formats))
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        page = tiff.full_page(image)
        # Anew, since a damaged later page leaves the first object damaged.
        image = Image.open(io.BytesIO(data), formats=tuple(formats))
        image.seek(page or 0)
        tiff.prepare(cast(TiffImagePlugin.TiffImageFile, image))
        image.info["several pages"] = page is None
    return image


def _png_picture(data: bytes) -> bytes:
    """The chunks of a PNG that make its picture: Pillow refuses all of it for a large profile, or a damaged entry.

    What may turn it stands before the pixels.
    """
    view = memoryview(data)
    parts, pixels = [view[: len(_PNG)]], None
    at, kind = len(_PNG), b""
    while at < len(data) and kind != b"IEND":
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        start, at = at, at + 12 + length
        orients = kind == b"eXIf" or (
            kind[:1].islower() and _may_orient(kind, data[start + 8 : min(at - 4, start + 9 + _MAX_TEXT)])
        )
        if kind[:1].islower() and not (
            (orients or kind in _PNG_CHUNKS)
            and zlib.crc32(view[start + 4 : at - 4]) == int.from_bytes(data[at - 4 : at])
        ):
            continue
        if kind == b"IDAT" and pixels is None:
            pixels = len(parts)
        parts.insert(len(parts) if pixels is None or not orients else pixels, view[start:at])
    return b"".join(parts)


def _tells_orientation(content: bytes) -> bool:
    """True for a JPEG's EXIF or XMP segment that does."""
    return exif_orientation(content) is not None or _XMP_ORIENTATION.search(content) is not None


def _may_orient(kind: bytes, text: bytes) -> bool:
    """True for a PNG's text chunk that may tell the orientation, and stays short when it is decompressed."""
    if len(text) > _MAX_TEXT or not text.startswith(_PNG_ORIENTATION):
        return False
    _, _, content = text.partition(b"\0")
    if kind != b"zTXt":
        return not (kind == b"iTXt" and content.startswith(b"\1"))  # compressed, which those with XMP are not
    try:
        return len(zlib.decompressobj().decompress(content[1:], _MAX_TEXT)) < _MAX_TEXT
    except zlib.error:
        return False


def _check_bounds(size: tuple[int, int], name: str, max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise OversizedPicture(
            f"{name} is {width} x {height} = {width * height} pixels, at most {max_pixels} are accepted"
        )
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise OversizedPicture(
            f"{name} is {width} x {height} pixels: one side may be at most {MAX_ASPECT_RATIO:g} times the other"
        )


def _is_several(image: Image.Image) -> bool:
    if image.format == "TIFF":
        return bool(image.info["several pages"])
    # `n_frames` would read all frames, of which a small file may have a million.
    return bool(getattr(image, "is_animated", False))


def _loaded(image: Image.Image, data: bytes) -> Image.Image:
    if image.format == "TIFF":
        # Pillow turns a TIFF itself, and fails where another entry is damaged.
        image.getexif = Image.Exif  # type: ignore[method-assign]
    try:
        image.load()
    except OSError:
        if image.format != "JPEG":
            raise
        return _without_end(data)
    return image


def _without_end(data: bytes) -> Image.Image:
    """The picture of a JPEG that lacks its end mark and no pixel; OSError for one that lacks more.

    Pixels that are not there would depend on the bytes put in their place.
    """
    if not has_all_scans(data):
        raise OSError("scans are missing")
    data = jpeg_segments.picture(data, may_orient=_tells_orientation)
    image = JpegImageFile(io.BytesIO(data + _END_OF_JPEG))
    checksum = _checksum(image)
    for filling in _FILLINGS:
        if _checksum(JpegImageFile(io.BytesIO(data.rstrip(b"\xff") + filling + _END_OF_JPEG))) != checksum:
            raise OSError("pixels are missing")
    return image


def _checksum(image: Image.Image) -> int:
    """A checksum of the pixels, computed in strips, which take little memory."""
    checksum = 0
    for top in range(0, image.height, _STRIP):
        strip = image.crop((0, top, image.width, min(top + _STRIP, image.height)))
        checksum = zlib.crc32(strip.tobytes(), checksum)
    return checksum


def _upright(image: Image.Image, orientation: int, size: tuple[int, int] | None = None) -> Image.Image:
    turn = _TURNS.get(orientation)
    if turn is None:
        return image
    width, height = image.im.size  # as stored; a TIFF's own `size` is that of the turned picture
    upright = image.transpose(turn)
    if size == (height, width) and size != (upright.height, upright.width):
        return upright.transpose(_TURNED_BACK.get(turn, turn))
    return upright


def _orientation(image: Image.Image) -> int:
    """The orientation by EXIF, 1 to 8, else by XMP; 1 where neither tells. Other entries do not matter."""
    exif = image.info.get("exif") or b""
    if not exif and isinstance(profile := image.info.get("Raw profile type exif"), str):  # in PNG, by ImageMagick
        exif = _from_hexadecimal(profile)
    found = exif_orientation(exif)
    if found is None:
        xmp = image.info.get("XML:com.adobe.xmp") or image.info.get("xmp") or b""
        match = _XMP_ORIENTATION.search(xmp.encode() if isinstance(xmp, str) else xmp)
        found = int(match[1]) if match else 1
    return found


def exif_orientation(exif: bytes) -> int | None:
    """The orientation in EXIF data; None where they do not tell it."""
    tiff = exif.removeprefix(b"Exif\0\0").removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    try:
        if order is None:
            return None
        (first,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, first)
        for entry in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind, values = struct.unpack_from(f"{order}HHI", tiff, entry)
            number = order + _ORIENTATION_TYPES.get(kind, "")
            if tag == _ORIENTATION and 0 < values * struct.calcsize(number) <= 4:  # more would lie elsewhere
                return int(struct.unpack_from(number, tiff, entry + 8)[0])
    except struct.error:  # cut off
        pass
    return None


def _from_hexadecimal(profile: str) -> bytes:
    try:
        return bytes.fromhex("".join(profile.split("\n")[3:]))
    except ValueError:
        return b""


def _eight_bit(image: Image.Image, file: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        grey = np.asarray(image).astype(np.uint16, copy=False)
        return Image.fromarray(
            tiff.eight_bit_grey(grey, file) if file.format == "TIFF" else (grey >> 8).astype(np.uint8)
        )
    if image.mode not in _MODES:
        raise DamagedFile(f"{name} has colour mode {image.mode}, which cannot be shown as RGB: convert it first")
    return image


def _foreign(data: bytes, formats: Sequence[str]) -> str:
    """The reason to refuse bytes that no reader of `formats` knows."""
    read = ", ".join(formats)
    kind = _kind(data)
    if kind in formats:
        return f"is a damaged or truncated {kind}, or a variant of {kind} that is not read"
    if kind:
        more = OPTIONAL_FORMATS.get(kind)
        option = "" if more is None else f" (a server reads it with --image-formats{more})"
        return f"is {kind}, which is not read{option}: convert it to JPEG, or send one of {read}"
    return f"is not a picture in a format this server reads: {read}"


def _kind(data: bytes) -> str | None:
    """The format that a file's first bytes announce, if it is a known one."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    first_box = data[8 : min(int.from_bytes(data[:4]), 256)] if data[4:8] == b"ftyp" else b""
    announced = (kind for kind, brands in _BRANDS if any(brand in first_box for brand in brands))
    signed = (kind for kind, sign in _SIGNATURES if data.startswith(sign))
    return next(announced, None) or next(signed, None)


def no_memory(name: str) -> OversizedPicture:
    """The error for a MemoryError over a picture."""
    return OversizedPicture(f"{name} takes more memory to decode than there is: send a smaller picture")
