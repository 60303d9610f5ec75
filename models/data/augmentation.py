"""Augmentation of pictures: size, crop, mirror image and colour, with the boxes that go along.

For detectors as in DETR and Grounding DINO: half of the pictures are resized, the others cropped first. For CLIP a
random square (Radford et al. 2021, section 2.4). All draw from the generator they are given.
"""

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance
from pydantic import BaseModel, ConfigDict, Field

from models.data.entries import clip_boxes
from models.data.records import Float32

# Words that are true of a picture and not of its mirror image.
SIDED = re.compile(r"\b(left|right|clockwise|counterclockwise|anticlockwise)", re.IGNORECASE)
CROP_RESIZE = (400, 500, 600)  # GroundingDINO's data_aug_scales2_resize, for a shorter side of 800
CROP_SIDES = (384, 600)  # data_aug_scales2_crop
USUAL_SHORTER = 800


class _Augmentation(BaseModel):
    """`flip`: probability of the mirror image, unless a text speaks of left or right; `colour`: the largest change of
    brightness, contrast and saturation, as a share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    colour: float = Field(default=0.0, ge=0)


class DetectorAugmentation(_Augmentation):
    """`shorter`: sides to choose the shorter one from (default: the preprocessing's); `crop`: probability of a crop."""

    shorter: tuple[int, ...] = ()
    flip: float = Field(default=0.5, ge=0, le=1)
    crop: float = Field(default=0.5, ge=0, le=1)


class SquareAugmentation(_Augmentation):
    """`crop`: the smallest share of the largest square's area that is kept."""

    crop: float = Field(default=0.9, gt=0, le=1)
    flip: float = Field(default=0.0, ge=0, le=1)


@dataclass(frozen=True, eq=False)
class AugmentedPicture:
    """A picture, boxes x0, y0, x1, y1 in its pixels [K, 4], and the rows [K] they had before."""

    image: Image.Image
    boxes_xyxy: Float32
    rows: np.ndarray


def augment(
    image: Image.Image,
    boxes_xyxy: Float32,
    rules: DetectorAugmentation,
    *,
    mirror: bool,
    shorter: int,
    rng: np.random.Generator,
) -> AugmentedPicture:
    """Augment a detector's picture, which is not resized yet; boxes wholly outside of the crop are left out."""
    flips, crops = rng.random() < rules.flip, rng.random() < rules.crop
    if flips and mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes_xyxy = boxes_xyxy[:, [2, 1, 0, 3]] * np.asarray([-1, 1, -1, 1], np.float32) + np.asarray(
            [image.width, 0, image.width, 0], np.float32
        )
    if crops:
        crop = _random_crop(image.width, image.height, shorter, rng)
        image = image.crop(crop)
        boxes_xyxy = boxes_xyxy - np.asarray(crop[:2] * 2, np.float32)
    image = jitter_colours(image, rules.colour, rng)
    boxes_xyxy, kept = clip_boxes(boxes_xyxy, (image.height, image.width))
    return AugmentedPicture(image, boxes_xyxy[kept], np.flatnonzero(kept))


def random_square(
    image: Image.Image, rules: SquareAugmentation, *, mirror: bool, rng: np.random.Generator
) -> Image.Image:
    """Crop a random square, with its mirror image and colours changed by the rules."""
    side = min(image.size) * np.sqrt(rng.uniform(rules.crop, 1.0))
    side = max(1, min(round(float(side)), *image.size))
    left, top = (int(rng.integers(0, extent - side + 1)) for extent in image.size)
    image = image.crop((left, top, left + side, top + side))
    if rng.random() < rules.flip and mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return jitter_colours(image, rules.colour, rng)


def jitter_colours(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Change brightness, contrast and saturation by up to `strength`."""
    if strength <= 0:
        return image
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(float(rng.uniform(max(0.0, 1 - strength), 1 + strength)))
    return image


def mirrorable(*texts: str) -> bool:
    """Tell whether the texts are as true of the mirror image."""
    return not any(SIDED.search(text) for text in texts)


def _random_crop(width: int, height: int, shorter: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Choose a random crop: between 384 and 600 pixels a side once its shorter side is 400, 500 or 600.

    These published sizes are for a shorter side of 800; they are scaled to `shorter`.
    """
    factor = float(rng.choice(CROP_RESIZE)) * shorter / USUAL_SHORTER / min(width, height)
    low, high = (side * shorter / USUAL_SHORTER / factor for side in CROP_SIDES)
    sides = [
        max(1, min(extent, round(float(rng.uniform(low, max(low, min(high, extent))))))) for extent in (width, height)
    ]
    left, top = int(rng.integers(0, width - sides[0] + 1)), int(rng.integers(0, height - sides[1] + 1))
    return left, top, left + sides[0], top + sides[1]
