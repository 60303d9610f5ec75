"""Changes of real pictures in training: size, crop, mirror and colour, with the boxes that go along.

For detectors as in DETR and Grounding DINO: half of the pictures are resized, the others first cut. For CLIP a random
square (Radford et al. 2021, section 2.4). All draw from the generator they are given.
"""

import re
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageEnhance

from models.data.box_checks import within
from models.data.records import Float32

# What is true of a picture and not of its mirror image.
SIDED = re.compile(r"\b(left|right|clockwise|counterclockwise|anticlockwise)", re.IGNORECASE)
CROP_RESIZE = (400, 500, 600)  # GroundingDINO's data_aug_scales2_resize, for a shorter side of 800
CROP_SIDES = (384, 600)  # data_aug_scales2_crop
USUAL_SHORTER = 800


@dataclass(frozen=True)
class DetectorAugmentation:
    """`shorter`: sides to choose the shorter one from, none: the preprocessing's; `flip`, `crop`: how often.

    A picture is not mirrored where its text speaks of left or right. `colour`: the largest change of brightness,
    contrast and saturation, as a share.
    """

    shorter: tuple[int, ...] = ()
    flip: float = 0.5
    crop: float = 0.5
    colour: float = 0.0


@dataclass(frozen=True)
class SquareAugmentation:
    """`crop`: the smallest share of the largest square's area that is kept; `flip` and `colour` as for detectors."""

    crop: float = 0.9
    flip: float = 0.0
    colour: float = 0.0


@dataclass(frozen=True, eq=False)
class Changed:
    """A changed picture, boxes x0, y0, x1, y1 in its pixels [K, 4], and the rows [K] they had before."""

    image: Image.Image
    boxes_xyxy: Float32
    rows: np.ndarray


def changed(
    image: Image.Image,
    boxes_xyxy: Float32,
    rules: DetectorAugmentation,
    *,
    mirror: bool,
    shorter: int,
    rng: np.random.Generator,
) -> Changed:
    """A picture as a detector is taught it, not yet resized; a box of which the cut leaves nothing is left out."""
    flips, cuts = rng.random() < rules.flip, rng.random() < rules.crop
    if flips and mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        boxes_xyxy = boxes_xyxy[:, [2, 1, 0, 3]] * np.asarray([-1, 1, -1, 1], np.float32) + np.asarray(
            [image.width, 0, image.width, 0], np.float32
        )
    if cuts:
        cut = _cut(image.width, image.height, shorter, rng)
        image = image.crop(cut)
        boxes_xyxy = boxes_xyxy - np.asarray(cut[:2] * 2, np.float32)
    image = recoloured(image, rules.colour, rng)
    boxes_xyxy, kept = within(boxes_xyxy, (image.height, image.width))
    return Changed(image, boxes_xyxy[kept], np.flatnonzero(kept))


def square(image: Image.Image, rules: SquareAugmentation, *, mirror: bool, rng: np.random.Generator) -> Image.Image:
    """A random square of a picture."""
    side = min(image.size) * np.sqrt(rng.uniform(rules.crop, 1.0))
    side = max(1, min(round(float(side)), *image.size))
    left, top = (int(rng.integers(0, extent - side + 1)) for extent in image.size)
    image = image.crop((left, top, left + side, top + side))
    if rng.random() < rules.flip and mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return recoloured(image, rules.colour, rng)


def recoloured(image: Image.Image, strength: float, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast and saturation changed by up to `strength`."""
    if strength <= 0:
        return image
    for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = kind(image).enhance(float(rng.uniform(max(0.0, 1 - strength), 1 + strength)))
    return image


def mirrorable(*texts: str) -> bool:
    """Whether what the texts say stays true of the mirror image."""
    return not any(SIDED.search(text) for text in texts)


def _cut(width: int, height: int, shorter: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random part of the picture: between 384 and 600 pixels a side once its shorter side is 400, 500 or 600.

    The published sizes belong to a shorter side of 800, and are taken in proportion to `shorter`.
    """
    factor = float(rng.choice(CROP_RESIZE)) * shorter / USUAL_SHORTER / min(width, height)
    low, high = (side * shorter / USUAL_SHORTER / factor for side in CROP_SIDES)
    sides = [
        max(1, min(extent, round(float(rng.uniform(low, max(low, min(high, extent))))))) for extent in (width, height)
    ]
    left, top = int(rng.integers(0, width - sides[0] + 1)), int(rng.integers(0, height - sides[1] + 1))
    return left, top, left + sides[0], top + sides[1]
