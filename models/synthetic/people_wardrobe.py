"""Random looks of people: bodies, fabrics, clothes and hair."""

import colorsys
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from PIL import Image

from models.synthetic.human_body import Floats, Phenotype

Colour = tuple[float, float, float]
SKINS: tuple[Colour, ...] = (
    (244, 208, 177), (231, 180, 143), (224, 172, 125), (198, 134, 88), (160, 104, 66), (117, 74, 47), (84, 52, 36),
    (58, 36, 27),
)  # fmt: skip
HAIRS: tuple[Colour, ...] = (
    (22, 18, 16), (40, 28, 22), (66, 44, 30), (98, 66, 40), (150, 110, 66), (190, 155, 100), (120, 60, 34),
)  # fmt: skip
GREYS: tuple[Colour, ...] = ((120, 118, 116), (180, 178, 174), (222, 220, 216))
NEUTRALS: tuple[Colour, ...] = (
    (18, 18, 20), (40, 42, 48), (88, 90, 94), (150, 150, 150), (225, 225, 222), (28, 38, 66), (52, 74, 112),
    (110, 92, 70), (176, 156, 122), (70, 48, 36),
)  # fmt: skip
SWATCH = 128  # pixels of a piece of a photograph
PRINT = 2.2  # decimetres of the side of a picture on a shirt


class Surface(IntEnum):
    """The stuff of a face of the mesh."""

    SKIN, TOP, INNER, BOTTOM, SHOE, HAIR, EYE, BAG = range(8)


@dataclass(frozen=True)
class Fabric:
    """Two colours in a pattern with a period in decimetres, turned by degrees; or a piece of a photograph."""

    colours: tuple[Colour, Colour]
    pattern: str
    period: float
    angle: float
    picture: Image.Image | None = None

    def at(self, points: Floats) -> Floats:
        """Colours [N, 3] at points [N, 3] of the body in the rest pose."""
        first, second = np.array(self.colours, float)
        if self.picture is not None:
            return self._pictured(points, first)
        share = self._share(points)[:, None]
        return np.asarray(first * (1 - share) + second * share)

    def _share(self, points: Floats) -> Floats:
        """The share of the second colour at the points [N]."""
        angle = np.radians(self.angle)
        across, up = points[:, 0] + 0.6 * points[:, 2], points[:, 1]
        u, v = across * np.cos(angle) + up * np.sin(angle), up * np.cos(angle) - across * np.sin(angle)
        u, v = u / self.period, v / self.period
        match self.pattern:
            case "stripes":
                return np.floor(2 * v) % 2
            case "checks":
                return (np.floor(2 * u) % 2 + np.floor(2 * v) % 2) / 2
            case "dots":
                return np.asarray(np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.28, float)
            case _:
                return np.zeros(len(points))

    def _pictured(self, points: Floats, ground: Colour | Floats) -> Floats:
        assert self.picture is not None
        pixels = np.asarray(self.picture, float)
        if self.pattern == "cloth":
            place = np.stack([-points[:, 1], points[:, 0] + 0.6 * points[:, 2]]) / (4 * self.period)
            row, column = (SWATCH * place).astype(int) % SWATCH
            return pixels[row, column]
        x, y = points[:, 0] / PRINT + 0.5, (4.6 - points[:, 1]) / PRINT  # on the chest
        on = (x > 0) & (x < 1) & (y > 0) & (y < 1) & (points[:, 2] > 0.3)
        colours = np.broadcast_to(np.asarray(ground, float), points.shape).copy()
        colours[on] = pixels[(y[on] * (SWATCH - 1)).astype(int), (x[on] * (SWATCH - 1)).astype(int)]
        return colours


@dataclass(frozen=True)
class Outfit:
    """All that a person wears.

    sleeve: share of the arm; hem: decimetres of a body of average size below the hips; trousers, skirt: share of the
    leg, 0 for none; shoes: share of the leg from below; loose, wide: of top and trousers, about 0..1; opened: half the
    width that a coat is open, decimetres; volume and length of the hair in decimetres; hat: width of the brim, 0 for
    none; beard: 0..1.
    """

    sleeve: float
    hem: float
    trousers: float
    skirt: float
    shoes: float
    loose: float
    wide: float
    opened: float
    hair: str
    volume: float
    length: float
    hat: float
    bag: str
    beard: float
    fabrics: Mapping[Surface, Fabric]


def random_phenotype(rng: random.Random) -> Phenotype:
    """Draw a body: one in six is a child's."""
    if rng.random() < 0.17:
        age = rng.uniform(0, 0.3)
    else:
        age = rng.uniform(0.42, 0.7) if rng.random() < 0.75 else rng.uniform(0.7, 1)
    shares = [rng.random() ** 2 + 0.01 for _ in range(3)]
    first, second, third = (share / sum(shares) for share in shares)
    return Phenotype(
        age=age,
        gender=rng.choice((rng.uniform(0, 0.12), rng.uniform(0.88, 1))),
        muscle=_bounded(rng.gauss(0.5, 0.15)),
        weight=_bounded(rng.gauss(0.55, 0.18)),
        height=_bounded(rng.gauss(0.5, 0.12)),
        origins=(first, second, third),
    )


def random_fabric(rng: random.Random, pictures: Sequence[Image.Image], *, sober: bool = False) -> Fabric:
    """Draw a fabric; `sober`: mostly plain and neutral."""
    patterns = ("plain", "stripes", "checks", "dots", "cloth", "print")
    (pattern,) = rng.choices(patterns, (14, 0.3, 0.3, 0, 0.2, 0) if sober else (12, 1.6, 1.2, 0.4, 0.8, 1.6))
    colours = (_random_colour(rng, sober=sober), _random_colour(rng, sober=sober))
    picture = _random_swatch(rng, pictures) if pattern in ("cloth", "print") and pictures else None
    return Fabric(colours, pattern, rng.uniform(0.25, 1.4), rng.choice((0, 0, 0, 90, 45)), picture)


def random_outfit(rng: random.Random, body: Phenotype, pictures: Sequence[Image.Image]) -> Outfit:
    """Draw what suits a body, of plain and patterned fabrics and of pieces of photographs."""
    female, child = body.gender < 0.5, body.age < 0.35
    dress = female and rng.random() < 0.3
    coat = not dress and rng.random() < 0.25
    shorts = rng.random() < (0.3 if child else 0.16)
    bare_legs = dress and rng.random() < 0.75
    if female:
        (hair,) = rng.choices(("long", "short", "bun"), (6, 1.5, 1.5))
    else:
        (hair,) = rng.choices(("short", "bald", "long"), (8, 1.2 if body.age > 0.55 else 0.1, 0.3))
    return Outfit(
        sleeve=rng.choice((-0.08, 0.28, 0.33)) if not coat and rng.random() < 0.5 else rng.uniform(0.85, 1.0),
        hem=rng.uniform(0.6, 2.0) if coat else rng.uniform(-0.6, 1.6),
        trousers=rng.uniform(0.25, 0.55) if shorts else (0.0 if bare_legs else rng.uniform(0.88, 1.0)),
        skirt=rng.uniform(0.35, 0.95) if dress else (rng.uniform(0.2, 0.6) if coat and rng.random() < 0.5 else 0.0),
        shoes=rng.uniform(0.0, 0.06) if rng.random() < 0.8 else rng.uniform(0.1, 0.45),
        loose=rng.uniform(0.4, 1.2) if coat else rng.uniform(0.05, 0.7),
        wide=rng.uniform(0.0, 1.0),
        opened=rng.choice((0.0, rng.uniform(0.15, 0.8))) if coat else 0.0,
        hair=hair,
        volume=rng.uniform(0.1, 0.35) if rng.random() < 0.85 else rng.uniform(0.4, 0.9),
        length=rng.uniform(-1.0, 3.5),
        hat=0.0 if rng.random() < 0.8 else rng.choice((0.01, rng.uniform(0.4, 1.2))),
        bag=rng.choices(("", "back", "hand", "side"), (7, 1.4, 1, 1))[0],
        beard=0.0 if female or child or rng.random() < 0.6 else rng.uniform(0.3, 1.0),
        fabrics={
            Surface.TOP: random_fabric(rng, pictures),
            Surface.INNER: random_fabric(rng, ()),
            Surface.BOTTOM: random_fabric(rng, () if coat else pictures, sober=True),
            Surface.SHOE: random_fabric(rng, (), sober=True),
            Surface.BAG: random_fabric(rng, pictures, sober=True),
        },
    )


def random_skin(rng: random.Random, body: Phenotype) -> tuple[Floats, Floats]:
    """Draw the colours of skin and hair [3], 0..255."""
    african, _, caucasian = body.origins
    tone = _bounded(0.15 + 0.75 * african - 0.15 * caucasian + rng.gauss(0, 0.18)) * (len(SKINS) - 1.001)
    below, part = int(tone), tone % 1
    skin = np.array(SKINS[below]) * (1 - part) + np.array(SKINS[below + 1]) * part
    is_grey = body.age > 0.75 and rng.random() < 0.75
    return skin, np.array(rng.choice(GREYS if is_grey else HAIRS[:3] if tone > 3 else HAIRS), float)


def _random_colour(rng: random.Random, *, sober: bool) -> Colour:
    if rng.random() < (0.8 if sober else 0.5):
        red, green, blue = (min(255.0, max(0.0, value + rng.gauss(0, 8))) for value in rng.choice(NEUTRALS))
    else:
        saturation, value = rng.uniform(0.1, 0.8) ** 1.2, rng.uniform(0.2, 0.95)
        red, green, blue = (255 * part for part in colorsys.hsv_to_rgb(rng.random(), saturation, value))
    return red, green, blue


def _random_swatch(rng: random.Random, pictures: Sequence[Image.Image]) -> Image.Image:
    photo = rng.choice(pictures)
    side = min(photo.size) * rng.uniform(0.2, 0.6)
    left, top = rng.uniform(0, photo.width - side), rng.uniform(0, photo.height - side)
    return photo.resize((SWATCH, SWATCH), box=(left, top, left + side, top + side), reducing_gap=2)


def _bounded(value: float) -> float:
    return min(1.0, max(0.0, value))
