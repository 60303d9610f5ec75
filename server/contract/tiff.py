"""TIFF files that Pillow shows otherwise than they are meant: pages, grey of 9 to 16 bits, planes, old colour maps."""

from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImagePalette
from PIL.TiffImagePlugin import TiffImageFile

# Tags, and the bits of a page that is a smaller version of another, or its transparency mask.
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _MAX_SAMPLE = 254, 255, 256, 257, 258, 262, 281
_PLANES, _COLOUR_MAP, _SAMPLE_FORMAT = 284, 320, 339
_REDUCED, _MASK, _OLD_REDUCED, _WHITE_IS_ZERO, _SEPARATE, _SIGNED = 1, 4, 2, 0, 2, 2
_MAX_PAGES = 64


def full_page(image: TiffImageFile) -> int | None:
    """The page of which all others are thumbnails, overviews or masks; None where there is no such page."""
    pages: list[tuple[int, int, int]] = []  # (width, height, page), without those marked as one of these
    for page in range(_MAX_PAGES):
        try:
            image.seek(page)
        except Exception:  # there is no such page, or none that can be shown
            break
        if not number(image, _NEW_SUBFILE_TYPE) & (_REDUCED | _MASK) and number(image, _SUBFILE_TYPE) != _OLD_REDUCED:
            pages.append((number(image, _WIDTH), number(image, _HEIGHT), page))
    else:
        return None
    width, height, full = max(pages, key=lambda page: page[:2], default=(0, 0, 0))
    others = (page for page in pages if page[2] != full)
    return full if all(_is_overview(w, h, of=(width, height)) for w, h, _ in others) else None


def prepare(image: TiffImageFile) -> None:
    """Let Pillow read planes and colour maps as libtiff does; ValueError for signed bytes, which it takes for unsigned.

    Of uncompressed planes of 16 bits it takes each byte for a sample, and colours of 8 bits, as old programs wrote
    them, become black.
    """
    bits = number(image, _BITS)
    if bits <= 8 and number(image, _SAMPLE_FORMAT) == _SIGNED:
        raise ValueError("its samples are signed")
    if bits == 16 and number(image, _PLANES) == _SEPARATE:
        order = "B" if image.tag_v2.prefix == b"MM" else "L"
        image.tile = [
            tile._replace(args=(f"{tile.args[0]};16{order}", *tile.args[1:]))
            if tile.codec_name == "raw" and isinstance(tile.args, tuple)
            else tile
            for tile in image.tile
        ]
    if image.mode in ("P", "PA") and max(colours := cast("tuple[int, ...]", image.tag_v2[_COLOUR_MAP])) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))


def number(image: Image.Image, tag: int) -> int:
    """An entry, 0 where the file lacks it."""
    value = cast(TiffImageFile, image).tag_v2.get(tag, 0)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int) else 0


def eight_bit_grey(grey: npt.NDArray[np.uint16], file: Image.Image) -> npt.NDArray[np.uint8]:
    """The samples of 16-bit grey as 8 bits, black as 0; `file`: the opened TIFF."""
    eight: npt.NDArray[np.uint8] = np.minimum(grey >> (_sample_bits(file) - 8), 255).astype(np.uint8)
    if _PHOTOMETRIC in cast(TiffImageFile, file).tag_v2 and number(file, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        return ~eight  # Pillow inverts such pictures of 8 bits alone
    return eight


def _is_overview(width: int, height: int, *, of: tuple[int, int]) -> bool:
    """True for a size of half or less, in the same proportions to a pixel; not every program marks its thumbnails."""
    return 0 < 2 * width <= of[0] + 1 and 2 * height <= of[1] + 1 and abs(height - width * of[1] / of[0]) <= 1


def _sample_bits(file: Image.Image) -> int:
    """The depth of 16-bit grey: less where the samples have fewer bits, as those of microscopes and X-rays.

    MaxSampleValue tells it where it is all ones; other values are a statistic, which TIFF 6.0 keeps from the display.
    """
    bits, most = number(file, _BITS), number(file, _MAX_SAMPLE)
    if bits == 16 and most & (most + 1) == 0:
        bits = most.bit_length()
    return bits if 8 < bits < 16 else 16
