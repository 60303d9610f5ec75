"""Image preprocessing: a decoded Pillow image to `pixel_values`, as the official code of each family does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:  # decoders preprocess without it: it takes as long to import as all they need
    from server.contract.manifest import Buckets, Preprocessing

Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]

_RESAMPLE = {resampling.name.lower(): resampling for resampling in Image.Resampling}


def preprocess(
    image: Image.Image,
    rules: Preprocessing,
    *,
    size: tuple[int, int] | None = None,
    empty: Callable[[tuple[int, ...]], Float32] | None = None,
) -> Float32:
    """Convert an image to one model input: float32 [3, h, w], normalised, channels in the order of the rules.

    The image must be upright: its orientation tag is ignored. size: its (height, width), where it was decoded at a part
    of them. empty: makes the array that is returned, of any values.
    """
    if not rules.rgb_after_resize and image.mode != "RGB":
        image = image.convert("RGB")
    height, width = resized_size(*(size or (image.height, image.width)), rules)
    image = image.resize((width, height), _RESAMPLE[rules.resample], reducing_gap=rules.reducing_gap)
    if rules.resize == "shorter_crop" or rules.crop:
        image = _centre_crop(image, rules.crop or rules.shorter)
    bands = image.convert("RGB").split()
    shape = (len(bands), image.height, image.width)
    planes: Float32 = np.empty(shape, np.float32) if empty is None else empty(shape)
    for plane, band, values in zip(planes, bands[:: -1 if rules.channels == "bgr" else 1], _values(rules), strict=True):
        np.take(values, np.asarray(band), out=plane, mode="clip")  # no byte is clipped: other modes copy the output
    return planes


def _values(rules: Preprocessing) -> Float32:
    """The model's inputs [3, 256] for each byte of each channel, in the order of the rules.

    Each is computed as the official code computes it for a whole image, to the last bit.
    """
    values = np.repeat(np.arange(256, dtype=np.float32)[:, None], 3, axis=1)
    if rules.scale == 1 / 255:
        values /= np.float32(255)  # multiplying by 1/255 differs in the last bit
    elif rules.scale != 1:
        values *= np.float32(rules.scale)
    values -= np.asarray(rules.mean, np.float32)
    values /= np.asarray(rules.std, np.float32)
    return np.ascontiguousarray(values.T)


def resized_size(height: int, width: int, rules: Preprocessing) -> tuple[int, int]:
    """Size (height, width) after resizing, before any crop.

    The rounding follows torchvision's Resize for "shorter_crop" and GroundingDINO datasets/transforms.py
    `get_size_with_aspect_ratio` for "shorter_longer", by which the longer side may exceed its bound by a few pixels.
    """
    if rules.resize == "square":
        return rules.shorter, rules.shorter
    short, long = min(height, width), max(height, width)
    shorter = rules.shorter
    if rules.longer is not None and long / short * shorter > rules.longer:
        shorter = max(1, round(rules.longer * short / long))
    longer = int(shorter * long / short)
    return (shorter, longer) if height <= width else (longer, shorter)


def canvas_size(height: int, width: int, buckets: Buckets) -> tuple[int, int]:
    """Size (height, width) an input is padded to; it depends on this input alone, so no neighbour changes an answer."""
    multiple = buckets.pixel_multiple
    return -(-height // multiple) * multiple, -(-width // multiple) * multiple


def pad_batch(
    pixels: Sequence[Float32], canvas: tuple[int, int], *, out: tuple[Float32, Bool] | None = None
) -> tuple[Float32, Bool]:
    """Pad images of one canvas to a batch: `pixel_values` [B, 3, H, W], `pixel_mask` [B, H, W], True where valid.

    Zeros fill the right and the bottom. out: arrays of these shapes to write to, whatever they hold; None for new ones.
    """
    if out is None:
        out = np.empty((len(pixels), 3, *canvas), np.float32), np.empty((len(pixels), *canvas), np.bool_)
    values, mask = out
    assert (values.shape, mask.shape) == ((len(pixels), 3, *canvas), (len(pixels), *canvas)), "`out` fits the batch"
    for row, image in enumerate(pixels):
        _, height, width = image.shape
        values[row, :, :height, :width] = image
        values[row, :, :height, width:] = 0
        values[row, :, height:] = 0
        mask[row] = False
        mask[row, :height, :width] = True
    return values, mask


def _centre_crop(image: Image.Image, side: int) -> Image.Image:
    # Python's round halves to even, as torchvision's CenterCrop does.
    top, left = round((image.height - side) / 2), round((image.width - side) / 2)
    return image.crop((left, top, left + side, top + side))
