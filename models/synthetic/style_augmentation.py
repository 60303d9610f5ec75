"""Drawings as other hands would draw them: other colours, outlines, flat areas, shading, texture, pencil.

Drawings are [B, 4, S, S], RGBA in 0..1, premultiplied. Each change happens to a random part of the batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from models.synthetic.backgrounds import fractal

LUMA = torch.tensor((0.299, 0.587, 0.114))
# RGB to brightness and two axes of colour; a turn of the axes changes the hue.
TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
FROM_YIQ = torch.linalg.inv(TO_YIQ)
# What a drawing in one colour is painted with.
PAINTS = {
    "red": (0.85, 0.12, 0.12), "orange": (0.98, 0.55, 0.1), "yellow": (0.98, 0.87, 0.15), "green": (0.15, 0.65, 0.2),
    "blue": (0.15, 0.35, 0.9), "purple": (0.55, 0.2, 0.75), "pink": (0.98, 0.55, 0.72), "brown": (0.5, 0.3, 0.15),
    "black": (0.12, 0.12, 0.13), "white": (1.0, 1.0, 1.0), "grey": (0.55, 0.55, 0.56),
}  # fmt: skip
# How often each change of style happens, at strength 1.
OUTLINED, TRANSFERRED, FLAT, SHADED, TEXTURED, PENCILLED, GREY = 0.3, 0.15, 0.12, 0.25, 0.12, 0.08, 0.08


def recoloured(drawings: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Brightness, contrast, saturation, hue and a tint, different for every drawing."""
    batch = len(drawings)

    def change() -> Tensor:
        return torch.randn(batch, generator=generator).clamp(-2, 2) * strength

    saturation = change().exp()
    turn = change() * 0.35
    contrast = (change() * 0.6).exp()
    axes = torch.zeros(batch, 3, 3)
    axes[:, 0, 0] = 1
    axes[:, 1, 1], axes[:, 1, 2] = saturation * turn.cos(), -saturation * turn.sin()
    axes[:, 2, 1], axes[:, 2, 2] = saturation * turn.sin(), saturation * turn.cos()
    matrix = FROM_YIQ @ axes @ TO_YIQ * contrast[:, None, None]  # [B, 3, 3]
    tint = torch.randn(batch, 3, generator=generator).clamp(-2, 2) * strength * 0.25
    offset = 0.5 - 0.5 * contrast[:, None] + 0.3 * change()[:, None] + tint  # [B, 3]
    colour, alpha = drawings[:, :3], drawings[:, 3:]
    mixed = (matrix @ colour.flatten(2)).view_as(colour) + offset[:, :, None, None] * alpha
    return _with_colour(mixed, alpha)


def painted(drawings: Tensor, colours: Tensor) -> Tensor:
    """Drawings in one colour [B, 3] each: their light and shade remain."""
    colour, alpha = drawings[:, :3], drawings[:, 3:]
    light = _grey(colour)
    shade = 0.35 * alpha + 0.9 * light
    painted_on = shade * colours[:, :, None, None]
    # What is very light, as a wheel's rim or an eye, keeps some of its white.
    return _with_colour(painted_on + 0.35 * (light - 0.75 * alpha).clamp(min=0) * 2, alpha)


def restyled(drawings: Tensor, others: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Changes of style; `others` [B, 4, S, S] are drawings of the same objects, perhaps in another style."""
    result = drawings
    if strength <= 0:
        return result
    for chance, change in CHANGES:
        rows = (torch.rand(len(drawings), generator=generator) < chance * strength).nonzero()[:, 0]
        if len(rows):
            if result is drawings:
                result = drawings.clone()
            result[rows] = change(result[rows], others[rows], generator)
    return result


def _with_colour(colour: Tensor, alpha: Tensor) -> Tensor:
    return torch.cat([torch.minimum(colour.clamp(min=0), alpha), alpha], 1)


def _grey(colour: Tensor) -> Tensor:
    return (colour * LUMA[:, None, None]).sum(1, keepdim=True)


def _amount(drawings: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(drawings), 1, 1, 1, generator=generator)


def _transfer(drawings: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """The mean and spread of the other drawing's colours."""

    def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha = x[:, 3:]
        area = alpha.sum((2, 3), keepdim=True).clamp(min=1)
        mean = x[:, :3].sum((2, 3), keepdim=True) / area
        spread = ((x[:, :3] - mean * alpha) ** 2).sum((2, 3), keepdim=True) / area
        return mean, (spread + 1e-3).sqrt(), alpha

    mean, spread, alpha = moments(drawings)
    other_mean, other_spread, _ = moments(others)
    ratio = (other_spread / spread).clamp(0.4, 2.5)
    return _with_colour((drawings[:, :3] - mean * alpha) * ratio + other_mean * alpha, alpha)


def _flat(drawings: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Few steps of brightness in each colour, over areas made even by a blur."""
    steps = 2 + 3 * _amount(drawings, generator)
    even = functional.avg_pool2d(drawings, 5, stride=1, padding=2)
    alpha = drawings[:, 3:]
    colour = even[:, :3] / even[:, 3:].clamp(min=0.05)
    return _with_colour((colour * steps).round() / steps * alpha, alpha)


def _shade(drawings: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Light from one side, as on a solid body."""
    side = drawings.shape[2]
    axis = torch.linspace(-1, 1, side)
    angle = _amount(drawings, generator) * 2 * torch.pi
    light = axis[None, None, :, None] * angle.sin() + axis[None, None, None] * angle.cos()
    alpha = drawings[:, 3:]
    strength = 0.1 + 0.4 * _amount(drawings, generator)
    return _with_colour(drawings[:, :3] * (1 + strength * light) + 0.1 * strength * light * alpha, alpha)


def _texture(drawings: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Grain of paper, cloth or fur on the drawing."""
    grain = fractal(len(drawings), (drawings.shape[2], drawings.shape[3]), generator, octaves=6)
    return _with_colour(drawings[:, :3] * (1 + 0.5 * _amount(drawings, generator) * grain), drawings[:, 3:])


def _pencil(drawings: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Edges as dark lines on paper, some of the colour left or none."""
    colour, alpha = drawings[:, :3], drawings[:, 3:]
    light = _grey(colour) + (1 - alpha)
    thick = functional.max_pool2d(light, 3, stride=1, padding=1) + functional.max_pool2d(-light, 3, stride=1, padding=1)
    lines = (thick * (2 + 3 * _amount(drawings, generator))).clamp(0, 1)
    paper = alpha * (0.85 + 0.15 * _amount(drawings, generator))
    left = _amount(drawings, generator) * 0.7
    return _with_colour((paper + (colour - paper) * left) * (1 - lines), alpha)


def _fade(drawings: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Shades of grey."""
    alpha = drawings[:, 3:]
    return _with_colour(_grey(drawings[:, :3]).expand(-1, 3, -1, -1), alpha)


def _outline(drawings: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """A line around the shape, mostly dark, some white or coloured; half of them with dark lines inside as well."""
    batch, alpha = len(drawings), drawings[:, 3:]
    width = 3 + 2 * int(torch.randint(0, 3, (1,), generator=generator))
    wide = functional.max_pool2d(alpha, width, stride=1, padding=width // 2)
    dark = torch.rand(batch, 3, 1, 1, generator=generator) * 0.25
    bright = torch.rand(batch, 3, 1, 1, generator=generator) * 0.4 + 0.6
    ink = torch.where(_amount(drawings, generator) < 0.8, dark, bright)
    colour = drawings[:, :3] + ink * (wide - alpha)
    light = _grey(drawings[:, :3])
    edges = functional.max_pool2d(light, 3, stride=1, padding=1) + functional.max_pool2d(-light, 3, stride=1, padding=1)
    lines = ((edges - 0.15) * 4).clamp(0, 1) * alpha * (_amount(drawings, generator) < 0.5)
    return _with_colour(colour * (1 - lines) + ink * lines, wide)


Change = Callable[[Tensor, Tensor, torch.Generator], Tensor]
CHANGES: tuple[tuple[float, Change], ...] = (
    (TRANSFERRED, _transfer),
    (FLAT, _flat),
    (SHADED, _shade),
    (TEXTURED, _texture),
    (PENCILLED, _pencil),
    (GREY, _fade),
    (OUTLINED, _outline),
)
