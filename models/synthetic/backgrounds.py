"""Backgrounds of generated pictures, from one flat colour to rooms, landscapes and foliage out of noise.

Every painter draws a batch at once; what it draws at random is different for each picture.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from models.synthetic.compositing import Placement, draw

CLUTTER_LAYERS = 5
COARSE = 4  # clutter is drawn this many times smaller, which puts it out of focus
LIGHTS = 10
RIDGES = 3
Size = tuple[int, int]


def backgrounds(batch: int, size: Size, *, drawings: Tensor, busy: float, generator: torch.Generator) -> Tensor:
    """[B, 3, H, W] in 0..1, a kind at random for each picture.

    `drawings` [M, 4, S, S] in 0..1, premultiplied, is what clutter is made of; `busy` in 0..1 is how often a
    background is more than one flat colour.
    """
    kind = torch.randint(len(PAINTERS) + 1, (batch,), generator=generator)
    flat = torch.rand(batch, generator=generator) > 0.25 + 0.65 * busy
    result = _colours(batch, generator)[:, :, None, None].expand(-1, -1, *size).clone()  # [B, 3, H, W]
    for index, painter in enumerate(PAINTERS):
        rows = (~flat & (kind == index)).nonzero()[:, 0]
        if len(rows):
            result[rows] = painter(len(rows), size, generator)
    rows = (~flat & (kind == len(PAINTERS))).nonzero()[:, 0]
    if len(rows):
        result[rows] = _clutter(result[rows], drawings, generator)
    return result.clamp(0, 1)


def fractal(count: int, size: Size, generator: torch.Generator, *, octaves: int = 4, channels: int = 1) -> Tensor:
    """[count, channels, H, W] about -1..1: smooth noise of several grains, coarse ones the strongest."""
    result = torch.zeros(count, channels, *size)
    fading = 0.35 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator)
    grain = int(torch.randint(2, 5, (1,), generator=generator))
    for octave in range(octaves):
        cells = (min(size[0], grain * 2**octave), min(size[1], grain * 2**octave))
        noise = torch.rand(count, channels, *cells, generator=generator) * 2 - 1
        result += functional.interpolate(noise, size=size, mode="bilinear", align_corners=True) * fading**octave
    return result


def shapes(count: int, generator: torch.Generator, side: int = 32) -> Tensor:
    """[count, 4, side, side] in 0..1, premultiplied: discs, rings, bars, boxes and blobs that mean nothing."""
    y, x = _axes((side, side))
    kind = torch.randint(4, (count, 1, 1, 1), generator=generator)
    width = 0.25 + 0.7 * _amount(count, generator)
    round_, square = 1 - (x**2 + (y / width) ** 2).sqrt(), 1 - torch.maximum(x.abs(), y.abs() / width)
    ring = 0.2 - ((x**2 + y**2).sqrt() - 0.75).abs()
    blob = 0.7 - (x**2 + y**2).sqrt() + 0.4 * fractal(count, (side, side), generator, octaves=3)
    inside = torch.where(kind == 0, round_, torch.where(kind == 1, square, torch.where(kind == 2, ring, blob)))
    alpha = (inside * side / 2).clamp(0, 1)
    stripes = torch.sin(x * (3 + 20 * _amount(count, generator))).sign() * 0.2 * (_amount(count, generator) < 0.3)
    texture = stripes + 0.2 * _amount(count, generator) * fractal(count, (side, side), generator, octaves=4)
    return torch.cat([(_painted(count, generator) + texture).clamp(0, 1) * alpha, alpha], 1)


def _colours(count: int, generator: torch.Generator) -> Tensor:
    """[count, 3]: any colour, or (two times in five) a grey from dark to white."""
    colour = torch.rand(count, 3, generator=generator)
    grey = torch.rand(count, 1, generator=generator).sqrt().expand(-1, 3)
    return torch.where(torch.rand(count, 1, generator=generator) < 0.4, grey, colour)


def _painted(count: int, generator: torch.Generator) -> Tensor:
    return _colours(count, generator)[:, :, None, None]


def _near(colour: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    return (colour + (torch.rand(colour.shape, generator=generator) - 0.5) * spread).clamp(0, 1)


def _amount(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, 1, 1, 1, generator=generator)


def _axes(size: Size) -> tuple[Tensor, Tensor]:
    """y [1, 1, H, 1] and x [1, 1, 1, W], both from -1 to 1."""
    return torch.linspace(-1, 1, size[0])[None, None, :, None], torch.linspace(-1, 1, size[1])[None, None, None]


def _gradient(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """From one colour to another, some with a texture."""
    y, x = _axes(size)
    angle = _amount(count, generator) * 2 * torch.pi
    along = (x * angle.cos() + y * angle.sin()) / 2.83 + 0.5  # [count, 1, H, W] in 0..1
    first, second = _painted(count, generator), _painted(count, generator)
    texture = fractal(count, size, generator, octaves=5)
    return first + (second - first) * along + texture * 0.15 * _amount(count, generator)


def _noise(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Smooth noise of a random grain around a random colour, with fine noise on top."""
    base = _painted(count, generator)
    coarse = fractal(count, size, generator, octaves=2)
    coarse = coarse + fractal(count, size, generator, octaves=1, channels=3) * _amount(count, generator)
    fine = torch.rand(count, 1, *size, generator=generator) - 0.5
    return base + coarse * (0.1 + 0.5 * _amount(count, generator)) + fine * 0.3 * _amount(count, generator)


def _marble(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Noise through a palette of four colours: stone, cloth, foliage, camouflage."""
    field = fractal(count, size, generator, octaves=6) * (1 + 2 * _amount(count, generator))
    place = (field * 0.5 + 0.5).clamp(0, 1) * 3
    first = _painted(count, generator)
    palette = [first, *(_near(first, 0.3 + 0.9 * float(torch.rand((), generator=generator)), generator) for _ in "123")]
    return sum((palette[i] * (1 - (place - i).abs()).clamp(min=0) for i in range(4)), torch.zeros(()))


def _landscape(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Sky, and ridges one before the other, the near ones darker and rougher."""
    y, _ = _axes(size)
    sky, haze, ground = (_painted(count, generator) for _ in "123")
    picture = sky + (haze - sky) * (y * 0.5 + 0.5)
    picture = picture + fractal(count, size, generator, octaves=4) * 0.15 * _amount(count, generator)
    top = -0.4 + 0.8 * _amount(count, generator)
    for ridge in range(1, RIDGES + 1):
        line = fractal(count, (1, size[1]), generator, octaves=5) * 0.35
        edge = ((y - top - 0.25 * ridge - line) * size[0] / 4).clamp(0, 1)  # [count, 1, H, W]
        nearness = ridge / RIDGES
        colour = _near(haze + (ground - haze) * nearness, 0.15, generator)
        colour = colour + fractal(count, size, generator, octaves=6) * 0.25 * nearness * _amount(count, generator)
        picture = picture + (colour - picture) * edge
    return picture


def _room(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """A wall, perhaps with a corner, over a floor of tiles, planks or nothing, in perspective."""
    y, x = _axes(size)
    horizon = -0.3 + 0.8 * _amount(count, generator)
    wall, floor = _painted(count, generator), _painted(count, generator)
    corner = (x > _amount(count, generator) * 4 - 2).float()
    paper = torch.sin(x * (4 + 40 * _amount(count, generator))).sign() * (_amount(count, generator) < 0.3)
    above = wall * (1 - 0.25 * corner) + 0.06 * paper + fractal(count, size, generator) * 0.08
    depth = 1 / (y - horizon).clamp(min=0.03)
    tilt = _amount(count, generator) * 2 - 1
    across = torch.sin((x + tilt * 0.3) * depth * (2 + 6 * _amount(count, generator)))
    along = torch.sin(depth * (3 + 9 * _amount(count, generator)))
    kind = _amount(count, generator)
    pattern = torch.where(
        kind < 0.35, across.sign() * along.sign(), torch.where(kind < 0.7, across.sign(), 0.0 * across)
    )
    strength = 0.2 * _amount(count, generator) * (1 - (depth / 12).clamp(max=1))
    below = floor * (1 - 0.3 * (depth / 12).clamp(max=1)) + pattern * strength
    below = below + fractal(count, size, generator, octaves=5) * 0.1
    return torch.where(y > horizon, below, above)


def _lights(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Round lights out of focus over something dark or bright."""
    y, x = _axes(size)
    picture = _gradient(count, size, generator) * (0.2 + 0.8 * _amount(count, generator))
    for _ in range(LIGHTS):
        centre_x, centre_y = _amount(count, generator) * 2.4 - 1.2, _amount(count, generator) * 2.4 - 1.2
        radius = 0.05 + 0.3 * _amount(count, generator) ** 2
        distance = ((x - centre_x) ** 2 + (y - centre_y) ** 2).sqrt()
        disc = ((radius - distance) * 12 + 0.5).clamp(0, 1) * (0.15 + 0.5 * _amount(count, generator))
        picture = picture + (_painted(count, generator) - picture) * disc
    return picture


def _leaves(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Creases of noise at two grains in near colours, like foliage, grass, fur or gravel."""
    stretch = 1 + 3 * float(torch.rand((), generator=generator))
    long = (max(2, int(size[0] / stretch)), size[1])
    field = functional.interpolate(fractal(count, long, generator, octaves=6), size=size, mode="bilinear")
    creases = 1 - field.abs() * 2
    base, other = _painted(count, generator), _painted(count, generator)
    second = base + (other - base) * 0.4
    patches = (fractal(count, size, generator, octaves=3) * 0.5 + 0.5).clamp(0, 1)
    return (base + (second - base) * patches) * (0.7 + 0.3 * creases)


def _clutter(base: Tensor, drawings: Tensor, generator: torch.Generator) -> Tensor:
    """`base` [B, 3, H, W] under drawings so large and blurred that they cannot be recognised."""
    batch, _, height, width = base.shape
    small = (max(4, height // COARSE), max(4, width // COARSE))
    result = functional.interpolate(base, size=small)
    for _ in range(CLUTTER_LAYERS):
        rows = torch.randint(len(drawings), (batch,), generator=generator)
        place = Placement.random(batch, small, smallest=1.0, largest=2.5, turn=3.1, generator=generator)
        layer = draw(drawings[rows], place, small)
        result = result * (1 - layer[:, 3:]) + layer[:, :3]
    return functional.interpolate(result, size=(height, width), mode="bilinear")


Painter = Callable[[int, Size, torch.Generator], Tensor]
PAINTERS: tuple[Painter, ...] = (_gradient, _noise, _marble, _landscape, _room, _lights, _leaves)
