"""Style augmentation of sprites: colour jitter, outlines, posterising, shading, texture, pencil sketch.

Sprites are [B, 4, S, S], premultiplied RGBA in 0..1. Each change is applied to a random part of the batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from models.synthetic.backgrounds import fractal_noise

LUMA = torch.tensor((0.299, 0.587, 0.114))
# RGB to luma and two chroma axes; rotating the chroma axes shifts the hue.
TO_YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
FROM_YIQ = torch.linalg.inv(TO_YIQ)
# RGB of the named colours that sprites are painted in.
PAINTS = {
    "red": (0.85, 0.12, 0.12), "orange": (0.98, 0.55, 0.1), "yellow": (0.98, 0.87, 0.15), "green": (0.15, 0.65, 0.2),
    "blue": (0.15, 0.35, 0.9), "purple": (0.55, 0.2, 0.75), "pink": (0.98, 0.55, 0.72), "brown": (0.5, 0.3, 0.15),
    "black": (0.12, 0.12, 0.13), "white": (1.0, 1.0, 1.0), "grey": (0.55, 0.55, 0.56),
}  # fmt: skip


def jitter_sprite_colours(sprites: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Random brightness, contrast, saturation, hue and tint for each sprite."""
    batch = len(sprites)

    def normal() -> Tensor:
        return torch.randn(batch, generator=generator).clamp(-2, 2) * strength

    saturation = normal().exp()
    hue = normal() * 0.35
    contrast = (normal() * 0.6).exp()
    axes = torch.zeros(batch, 3, 3)
    axes[:, 0, 0] = 1
    axes[:, 1, 1], axes[:, 1, 2] = saturation * hue.cos(), -saturation * hue.sin()
    axes[:, 2, 1], axes[:, 2, 2] = saturation * hue.sin(), saturation * hue.cos()
    matrix = FROM_YIQ @ axes @ TO_YIQ * contrast[:, None, None]  # [B, 3, 3]
    tint = torch.randn(batch, 3, generator=generator).clamp(-2, 2) * strength * 0.25
    offset = 0.5 - 0.5 * contrast[:, None] + 0.3 * normal()[:, None] + tint  # [B, 3]
    colour, alpha = sprites[:, :3], sprites[:, 3:]
    mixed = (matrix @ colour.flatten(2)).view_as(colour) + offset[:, :, None, None] * alpha
    return _with_colour(mixed, alpha)


def paint(sprites: Tensor, colours: Tensor) -> Tensor:
    """Repaint each sprite in one colour [B, 3], keeping its light and shade."""
    colour, alpha = sprites[:, :3], sprites[:, 3:]
    light = _luma(colour)
    shade = 0.35 * alpha + 0.9 * light
    painted_on = shade * colours[:, :, None, None]
    # Highlights, such as a wheel's rim or an eye, keep some of their white.
    return _with_colour(painted_on + 0.35 * (light - 0.75 * alpha).clamp(min=0) * 2, alpha)


def augment_style(sprites: Tensor, others: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Apply random style changes; `others` [B, 4, S, S] are sprites of the same objects, perhaps in another style."""
    result = sprites
    if strength <= 0:
        return result
    for probability, change in STYLE_CHANGES:
        rows = (torch.rand(len(sprites), generator=generator) < probability * strength).nonzero()[:, 0]
        if len(rows):
            if result is sprites:
                result = sprites.clone()
            result[rows] = change(result[rows], others[rows], generator)
    return result


def _with_colour(colour: Tensor, alpha: Tensor) -> Tensor:
    return torch.cat([torch.minimum(colour.clamp(min=0), alpha), alpha], 1)


def _luma(colour: Tensor) -> Tensor:
    return (colour * LUMA[:, None, None]).sum(1, keepdim=True)


def _uniform(sprites: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(sprites), 1, 1, 1, generator=generator)


def _contrast(light: Tensor) -> Tensor:
    """Largest less smallest value in each 3 x 3 window."""
    return functional.max_pool2d(light, 3, stride=1, padding=1) + functional.max_pool2d(-light, 3, stride=1, padding=1)


def _colour_transfer(sprites: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Colour transfer: the mean and standard deviation of the other sprite's colours."""

    def moments(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        alpha = x[:, 3:]
        area = alpha.sum((2, 3), keepdim=True).clamp(min=1)
        mean = x[:, :3].sum((2, 3), keepdim=True) / area
        spread = ((x[:, :3] - mean * alpha) ** 2).sum((2, 3), keepdim=True) / area
        return mean, (spread + 1e-3).sqrt(), alpha

    mean, spread, alpha = moments(sprites)
    other_mean, other_spread, _ = moments(others)
    ratio = (other_spread / spread).clamp(0.4, 2.5)
    return _with_colour((sprites[:, :3] - mean * alpha) * ratio + other_mean * alpha, alpha)


def _posterise(sprites: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Quantise each channel to a few levels after a blur."""
    steps = 2 + 3 * _uniform(sprites, generator)
    even = functional.avg_pool2d(sprites, 5, stride=1, padding=2)
    alpha = sprites[:, 3:]
    colour = even[:, :3] / even[:, 3:].clamp(min=0.05)
    return _with_colour((colour * steps).round() / steps * alpha, alpha)


def _directional_light(sprites: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Shade from one side, as a solid body is lit."""
    side = sprites.shape[2]
    axis = torch.linspace(-1, 1, side)
    angle = _uniform(sprites, generator) * 2 * torch.pi
    light = axis[None, None, :, None] * angle.sin() + axis[None, None, None] * angle.cos()
    alpha = sprites[:, 3:]
    strength = 0.1 + 0.4 * _uniform(sprites, generator)
    return _with_colour(sprites[:, :3] * (1 + strength * light) + 0.1 * strength * light * alpha, alpha)


def _texture(sprites: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Overlay a grain like paper, cloth or fur."""
    grain = fractal_noise(len(sprites), (sprites.shape[2], sprites.shape[3]), generator, octaves=6)
    return _with_colour(sprites[:, :3] * (1 + 0.5 * _uniform(sprites, generator) * grain), sprites[:, 3:])


def _pencil_sketch(sprites: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Draw edges as dark lines on paper, keeping up to 70% of the colour."""
    colour, alpha = sprites[:, :3], sprites[:, 3:]
    light = _luma(colour) + (1 - alpha)
    lines = (_contrast(light) * (2 + 3 * _uniform(sprites, generator))).clamp(0, 1)
    paper = alpha * (0.85 + 0.15 * _uniform(sprites, generator))
    kept = _uniform(sprites, generator) * 0.7
    return _with_colour((paper + (colour - paper) * kept) * (1 - lines), alpha)


def _greyscale(sprites: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Drop the colour."""
    alpha = sprites[:, 3:]
    return _with_colour(_luma(sprites[:, :3]).expand(-1, 3, -1, -1), alpha)


def _outline(sprites: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Draw a contour around the shape, mostly dark, some bright; for half of the sprites along inner edges too."""
    batch, alpha = len(sprites), sprites[:, 3:]
    kernel = 3 + 2 * int(torch.randint(0, 3, (1,), generator=generator))
    dilated = functional.max_pool2d(alpha, kernel, stride=1, padding=kernel // 2)
    dark = torch.rand(batch, 3, 1, 1, generator=generator) * 0.25
    bright = torch.rand(batch, 3, 1, 1, generator=generator) * 0.4 + 0.6
    ink = torch.where(_uniform(sprites, generator) < 0.8, dark, bright)
    colour = sprites[:, :3] + ink * (dilated - alpha)
    light = _luma(sprites[:, :3])
    lines = ((_contrast(light) - 0.15) * 4).clamp(0, 1) * alpha * (_uniform(sprites, generator) < 0.5)
    return _with_colour(colour * (1 - lines) + ink * lines, dilated)


StyleChange = Callable[[Tensor, Tensor, torch.Generator], Tensor]
# Probability of each change at strength 1, in the order of application.
STYLE_CHANGES: tuple[tuple[float, StyleChange], ...] = (
    (0.15, _colour_transfer),
    (0.12, _posterise),
    (0.25, _directional_light),
    (0.12, _texture),
    (0.08, _pencil_sketch),
    (0.08, _greyscale),
    (0.3, _outline),
)
