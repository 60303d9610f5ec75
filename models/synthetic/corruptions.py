"""What cameras, screens and files do to a picture: blur, noise, light, few pixels, compression.

Pictures are [B, 3, H, W] in 0..1. Each change happens to a random part of the batch.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 8  # JPEG's


def degraded(picture: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Pictures after some of these changes, in 0..1; strength 0 leaves them as they are."""
    if strength <= 0:
        return picture.clamp(0, 1)

    def chosen(chance: float) -> Tensor:
        return (torch.rand(len(picture), generator=generator) < chance * min(1.0, strength)).nonzero()[:, 0]

    def amount(rows: Tensor) -> Tensor:
        return torch.rand(len(rows), 1, 1, 1, generator=generator) * strength

    picture = picture.clone()
    if len(rows := chosen(0.25)):
        blurred = functional.avg_pool2d(picture[rows], 3, stride=1, padding=1, count_include_pad=False)
        picture[rows] += (blurred - picture[rows]) * amount(rows).clamp(max=1)
    if len(rows := chosen(0.12)):
        picture[rows] = coarse(picture[rows], 1.2 + float(torch.rand((), generator=generator)) * strength)
    if len(rows := chosen(0.12)):
        picture[rows] = compressed(picture[rows], 0.02 + 0.1 * amount(rows))
    if len(rows := chosen(0.35)):
        grains = torch.randn(len(rows), 1 + 2 * (len(rows) % 2), *picture.shape[2:], generator=generator)
        picture[rows] += grains * 0.06 * amount(rows)
    light = 1 + (torch.rand(len(picture), 1, 1, 1, generator=generator) - 0.5) * 0.4 * strength
    cast = 1 + (torch.rand(len(picture), 3, 1, 1, generator=generator) - 0.5) * 0.15 * strength
    return (picture * light * cast).clamp(0, 1)


def coarse(picture: Tensor, factor: float) -> Tensor:
    """Made `factor` times smaller and large again."""
    size = picture.shape[2:]
    small = (max(4, int(size[0] / factor)), max(4, int(size[1] / factor)))
    return functional.interpolate(functional.interpolate(picture, size=small, mode="area"), size=size, mode="bilinear")


def compressed(picture: Tensor, step: Tensor) -> Tensor:
    """Blocks whose cosine coefficients are rounded, the higher the coarser; `step` [B, 1, 1, 1] is the lowest's."""
    batch, channels, height, width = picture.shape
    padded = functional.pad(picture, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    rows, columns = padded.shape[2] // BLOCK, padded.shape[3] // BLOCK
    blocks = padded.view(batch, channels, rows, BLOCK, columns, BLOCK).transpose(3, 4)  # [B, C, rows, columns, 8, 8]
    cosine = _cosines()
    order = torch.arange(BLOCK)
    steps = step[..., None, None] * (1 + order[:, None] + order)  # [B, 1, 1, 1, 8, 8]
    coefficients = cosine @ blocks @ cosine.T
    blocks = cosine.T @ ((coefficients / steps).round() * steps) @ cosine
    return blocks.transpose(3, 4).reshape(padded.shape)[:, :, :height, :width]


def _cosines() -> Tensor:
    """The orthonormal cosine transform of a block's side [8, 8]."""
    order = torch.arange(BLOCK, dtype=torch.float32)
    table = torch.cos(math.pi / BLOCK * order[:, None] * (order + 0.5)) * math.sqrt(2 / BLOCK)
    table[0] /= math.sqrt(2)
    return table
