"""Procedural backgrounds of generated images: flat colours, gradients, noise, rooms, landscapes, foliage, clutter.

Each painter fills a whole batch; its random parameters differ per image.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from models.synthetic.compositing import Placement, render_sprites

CLUTTER_LAYERS = 5
CLUTTER_DOWNSCALE = 4  # clutter is rendered smaller by this factor and upscaled, which blurs it
NUM_LIGHTS = 10
NUM_RIDGES = 3
Size = tuple[int, int]


def random_backgrounds(batch: int, size: Size, *, sprites: Tensor, busy: float, generator: torch.Generator) -> Tensor:
    """Paint backgrounds [B, 3, H, W] in 0..1, each by a random painter.

    `sprites` [M, 4, S, S], premultiplied RGBA in 0..1, are the material of clutter; `busy` in 0..1 raises the share of
    backgrounds that are not one flat colour.
    """
    painter_index = torch.randint(len(PAINTERS) + 1, (batch,), generator=generator)
    flat = torch.rand(batch, generator=generator) > 0.25 + 0.65 * busy
    result = _random_colours(batch, generator)[:, :, None, None].expand(-1, -1, *size).clone()  # [B, 3, H, W]
    for index, painter in enumerate(PAINTERS):
        rows = (~flat & (painter_index == index)).nonzero()[:, 0]
        if len(rows):
            result[rows] = painter(len(rows), size, generator)
    rows = (~flat & (painter_index == len(PAINTERS))).nonzero()[:, 0]
    if len(rows):
        result[rows] = _clutter(result[rows], sprites, generator)
    return result.clamp(0, 1)


def fractal_noise(count: int, size: Size, generator: torch.Generator, *, octaves: int = 4, channels: int = 1) -> Tensor:
    """Smooth noise [count, channels, H, W], about -1..1: octaves of value noise, the coarsest strongest."""
    result = torch.zeros(count, channels, *size)
    persistence = 0.35 + 0.4 * torch.rand(count, 1, 1, 1, generator=generator)
    base_cells = int(torch.randint(2, 5, (1,), generator=generator))
    for octave in range(octaves):
        cells = (min(size[0], base_cells * 2**octave), min(size[1], base_cells * 2**octave))
        noise = torch.rand(count, channels, *cells, generator=generator) * 2 - 1
        result += functional.interpolate(noise, size=size, mode="bilinear", align_corners=True) * persistence**octave
    return result


def random_shapes(count: int, generator: torch.Generator, side: int = 32) -> Tensor:
    """Distractor shapes [count, 4, side, side], premultiplied RGBA in 0..1: discs, rings, bars, boxes and blobs."""
    y, x = _axes((side, side))
    kind = torch.randint(4, (count, 1, 1, 1), generator=generator)
    width = 0.25 + 0.7 * _uniform(count, generator)
    ellipse, box = 1 - (x**2 + (y / width) ** 2).sqrt(), 1 - torch.maximum(x.abs(), y.abs() / width)
    ring = 0.2 - ((x**2 + y**2).sqrt() - 0.75).abs()
    blob = 0.7 - (x**2 + y**2).sqrt() + 0.4 * fractal_noise(count, (side, side), generator, octaves=3)
    inside = torch.where(kind == 0, ellipse, torch.where(kind == 1, box, torch.where(kind == 2, ring, blob)))
    alpha = (inside * side / 2).clamp(0, 1)
    stripes = torch.sin(x * (3 + 20 * _uniform(count, generator))).sign() * 0.2 * (_uniform(count, generator) < 0.3)
    texture = stripes + 0.2 * _uniform(count, generator) * fractal_noise(count, (side, side), generator, octaves=4)
    return torch.cat([(_random_planes(count, generator) + texture).clamp(0, 1) * alpha, alpha], 1)


def _random_colours(count: int, generator: torch.Generator) -> Tensor:
    """Colours [count, 3], 40% of them greys from dark to white."""
    colour = torch.rand(count, 3, generator=generator)
    grey = torch.rand(count, 1, generator=generator).sqrt().expand(-1, 3)
    return torch.where(torch.rand(count, 1, generator=generator) < 0.4, grey, colour)


def _random_planes(count: int, generator: torch.Generator) -> Tensor:
    """Random colours as [count, 3, 1, 1], to broadcast over an image."""
    return _random_colours(count, generator)[:, :, None, None]


def _jittered(colour: Tensor, spread: float, generator: torch.Generator) -> Tensor:
    return (colour + (torch.rand(colour.shape, generator=generator) - 0.5) * spread).clamp(0, 1)


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, 1, 1, 1, generator=generator)


def _axes(size: Size) -> tuple[Tensor, Tensor]:
    """Coordinates y [1, 1, H, 1] and x [1, 1, 1, W], both from -1 to 1."""
    return torch.linspace(-1, 1, size[0])[None, None, :, None], torch.linspace(-1, 1, size[1])[None, None, None]


def _gradient(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Linear gradient between two colours, some with a texture."""
    y, x = _axes(size)
    angle = _uniform(count, generator) * 2 * torch.pi
    along = (x * angle.cos() + y * angle.sin()) / 2.83 + 0.5  # [count, 1, H, W] in 0..1
    first, second = _random_planes(count, generator), _random_planes(count, generator)
    texture = fractal_noise(count, size, generator, octaves=5)
    return first + (second - first) * along + texture * 0.15 * _uniform(count, generator)


def _noise(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Smooth noise around a random colour, with fine noise on top."""
    base = _random_planes(count, generator)
    coarse = fractal_noise(count, size, generator, octaves=2)
    coarse = coarse + fractal_noise(count, size, generator, octaves=1, channels=3) * _uniform(count, generator)
    fine = torch.rand(count, 1, *size, generator=generator) - 0.5
    return base + coarse * (0.1 + 0.5 * _uniform(count, generator)) + fine * 0.3 * _uniform(count, generator)


def _marble(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Noise mapped through a palette of four colours: stone, cloth, foliage, camouflage."""
    noise = fractal_noise(count, size, generator, octaves=6) * (1 + 2 * _uniform(count, generator))
    position = (noise * 0.5 + 0.5).clamp(0, 1) * 3
    first = _random_planes(count, generator)
    palette = [
        first,
        *(_jittered(first, 0.3 + 0.9 * float(torch.rand((), generator=generator)), generator) for _ in "123"),
    ]
    return sum((palette[i] * (1 - (position - i).abs()).clamp(min=0) for i in range(4)), torch.zeros(()))


def _landscape(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Sky behind overlapping ridges, the nearer ones closer to the ground colour and rougher."""
    y, _ = _axes(size)
    sky, haze, ground = (_random_planes(count, generator) for _ in "123")
    image = sky + (haze - sky) * (y * 0.5 + 0.5)
    image = image + fractal_noise(count, size, generator, octaves=4) * 0.15 * _uniform(count, generator)
    top = -0.4 + 0.8 * _uniform(count, generator)
    for ridge in range(1, NUM_RIDGES + 1):
        line = fractal_noise(count, (1, size[1]), generator, octaves=5) * 0.35
        edge = ((y - top - 0.25 * ridge - line) * size[0] / 4).clamp(0, 1)  # [count, 1, H, W]
        nearness = ridge / NUM_RIDGES
        colour = _jittered(haze + (ground - haze) * nearness, 0.15, generator)
        colour = colour + fractal_noise(count, size, generator, octaves=6) * 0.25 * nearness * _uniform(
            count, generator
        )
        image = image + (colour - image) * edge
    return image


def _room(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """A wall, perhaps with a corner, above a tiled, planked or plain floor in perspective."""
    y, x = _axes(size)
    horizon = -0.3 + 0.8 * _uniform(count, generator)
    wall, floor = _random_planes(count, generator), _random_planes(count, generator)
    corner = (x > _uniform(count, generator) * 4 - 2).float()
    paper = torch.sin(x * (4 + 40 * _uniform(count, generator))).sign() * (_uniform(count, generator) < 0.3)
    above = wall * (1 - 0.25 * corner) + 0.06 * paper + fractal_noise(count, size, generator) * 0.08
    depth = 1 / (y - horizon).clamp(min=0.03)
    tilt = _uniform(count, generator) * 2 - 1
    across = torch.sin((x + tilt * 0.3) * depth * (2 + 6 * _uniform(count, generator)))
    along = torch.sin(depth * (3 + 9 * _uniform(count, generator)))
    kind = _uniform(count, generator)
    pattern = torch.where(
        kind < 0.35, across.sign() * along.sign(), torch.where(kind < 0.7, across.sign(), 0.0 * across)
    )
    strength = 0.2 * _uniform(count, generator) * (1 - (depth / 12).clamp(max=1))
    below = floor * (1 - 0.3 * (depth / 12).clamp(max=1)) + pattern * strength
    below = below + fractal_noise(count, size, generator, octaves=5) * 0.1
    return torch.where(y > horizon, below, above)


def _lights(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Bokeh: blurred discs of light over a gradient."""
    y, x = _axes(size)
    image = _gradient(count, size, generator) * (0.2 + 0.8 * _uniform(count, generator))
    for _ in range(NUM_LIGHTS):
        centre_x, centre_y = _uniform(count, generator) * 2.4 - 1.2, _uniform(count, generator) * 2.4 - 1.2
        radius = 0.05 + 0.3 * _uniform(count, generator) ** 2
        distance = ((x - centre_x) ** 2 + (y - centre_y) ** 2).sqrt()
        disc = ((radius - distance) * 12 + 0.5).clamp(0, 1) * (0.15 + 0.5 * _uniform(count, generator))
        image = image + (_random_planes(count, generator) - image) * disc
    return image


def _foliage(count: int, size: Size, generator: torch.Generator) -> Tensor:
    """Creased noise in two similar colours, like foliage, grass, fur or gravel."""
    stretch = 1 + 3 * float(torch.rand((), generator=generator))
    squeezed = (max(2, int(size[0] / stretch)), size[1])
    noise = fractal_noise(count, squeezed, generator, octaves=6)
    creases = 1 - functional.interpolate(noise, size=size, mode="bilinear").abs() * 2
    base, other = _random_planes(count, generator), _random_planes(count, generator)
    second = base + (other - base) * 0.4
    patches = (fractal_noise(count, size, generator, octaves=3) * 0.5 + 0.5).clamp(0, 1)
    return (base + (second - base) * patches) * (0.7 + 0.3 * creases)


def _clutter(base: Tensor, sprites: Tensor, generator: torch.Generator) -> Tensor:
    """`base` [B, 3, H, W] under sprites too large and blurred to be recognised."""
    batch, _, height, width = base.shape
    small = (max(4, height // CLUTTER_DOWNSCALE), max(4, width // CLUTTER_DOWNSCALE))
    result = functional.interpolate(base, size=small)
    for _ in range(CLUTTER_LAYERS):
        rows = torch.randint(len(sprites), (batch,), generator=generator)
        placement = Placement.random(batch, small, min_side=1.0, max_side=2.5, max_angle=3.1, generator=generator)
        layer = render_sprites(sprites[rows], placement, small)
        result = result * (1 - layer[:, 3:]) + layer[:, :3]
    return functional.interpolate(result, size=(height, width), mode="bilinear")


Painter = Callable[[int, Size, torch.Generator], Tensor]
PAINTERS: tuple[Painter, ...] = (_gradient, _noise, _marble, _landscape, _room, _lights, _foliage)
