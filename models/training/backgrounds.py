"""Backgrounds of generated pictures: flat, gradient, noise, and clutter out of focus."""

import torch
from torch import Tensor
from torch.nn import functional

from models.training.placing import Placement, draw

KINDS = ("flat", "gradient", "noise", "clutter")
CLUTTER_LAYERS = 5
COARSE = 4  # clutter is drawn this many times smaller, which puts it out of focus


def backgrounds(
    batch: int, size: tuple[int, int], *, drawings: Tensor, busy: float, generator: torch.Generator
) -> Tensor:
    """[B, 3, H, W] in 0..1, a kind at random for each picture.

    `drawings` [M, 4, S, S] in 0..1, premultiplied, is what clutter is made of; `busy` in 0..1 is how often a
    background is more than one flat colour.
    """
    kind = torch.randint(1, len(KINDS), (batch,), generator=generator)
    kind[torch.rand(batch, generator=generator) > 0.25 + 0.6 * busy] = 0
    result = _colours(batch, generator)[:, :, None, None].expand(-1, -1, *size).clone()  # [B, 3, H, W]
    for index, painter in ((1, _gradient), (2, _noise)):
        rows = (kind == index).nonzero()[:, 0]
        if len(rows):
            result[rows] = painter(len(rows), size, generator)
    rows = (kind == 3).nonzero()[:, 0]
    if len(rows):
        result[rows] = _clutter(result[rows], drawings, generator)
    return result


def _colours(count: int, generator: torch.Generator) -> Tensor:
    """[count, 3]: any colour, or (two times in five) a grey from dark to white."""
    colour = torch.rand(count, 3, generator=generator)
    grey = torch.rand(count, 1, generator=generator).sqrt().expand(-1, 3)
    return torch.where(torch.rand(count, 1, generator=generator) < 0.4, grey, colour)


def _gradient(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    angle = torch.rand(count, 1, 1, generator=generator) * 2 * torch.pi
    y = torch.linspace(-1, 1, size[0])[None, :, None]
    x = torch.linspace(-1, 1, size[1])[None, None, :]
    along = ((x * angle.cos() + y * angle.sin()) / 2.83 + 0.5)[:, None]  # [count, 1, H, W] in 0..1
    first, second = (_colours(count, generator)[:, :, None, None] for _ in range(2))
    return first + (second - first) * along


def _noise(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Smooth noise of a random grain around a random colour, with fine noise on top."""
    base = _colours(count, generator)[:, :, None, None]
    grain = int(torch.randint(2, 13, (1,), generator=generator))
    grey = torch.rand(count, 1, grain, grain, generator=generator) - 0.5
    tint = torch.rand(count, 3, grain, grain, generator=generator) - 0.5
    coarse = grey + tint * torch.rand(count, 1, 1, 1, generator=generator)
    smooth = functional.interpolate(coarse, size=size, mode="bicubic")
    fine = torch.rand(count, 1, *size, generator=generator) - 0.5
    strength = torch.rand(2, count, 1, 1, 1, generator=generator)
    return (base + smooth * (0.2 + strength[0]) + fine * 0.3 * strength[1]).clamp(0, 1)


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
    return functional.interpolate(result, size=(height, width), mode="bilinear").clamp(0, 1)
