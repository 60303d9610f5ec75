"""Image corruptions of cameras and files: blur, low resolution, JPEG blocks, noise, brightness and colour cast.

Images are [B, 3, H, W] in 0..1. Each corruption is applied to a random part of the batch.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 8  # pixels of a JPEG block's side


def corrupt(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Apply random corruptions; the result is clamped to 0..1, and strength 0 does nothing else."""
    if strength <= 0:
        return images.clamp(0, 1)

    def random_rows(probability: float) -> Tensor:
        return (torch.rand(len(images), generator=generator) < probability * min(1.0, strength)).nonzero()[:, 0]

    def uniform(rows: Tensor) -> Tensor:
        return torch.rand(len(rows), 1, 1, 1, generator=generator) * strength

    images = images.clone()
    if len(rows := random_rows(0.25)):
        blurred = functional.avg_pool2d(images[rows], 3, stride=1, padding=1, count_include_pad=False)
        images[rows] += (blurred - images[rows]) * uniform(rows).clamp(max=1)
    if len(rows := random_rows(0.12)):
        images[rows] = low_resolution(images[rows], 1.2 + float(torch.rand((), generator=generator)) * strength)
    if len(rows := random_rows(0.12)):
        images[rows] = jpeg_blocks(images[rows], 0.02 + 0.1 * uniform(rows))
    if len(rows := random_rows(0.35)):
        grains = torch.randn(len(rows), 1 + 2 * (len(rows) % 2), *images.shape[2:], generator=generator)
        images[rows] += grains * 0.06 * uniform(rows)
    brightness = 1 + (torch.rand(len(images), 1, 1, 1, generator=generator) - 0.5) * 0.4 * strength
    cast = 1 + (torch.rand(len(images), 3, 1, 1, generator=generator) - 0.5) * 0.15 * strength
    return (images * brightness * cast).clamp(0, 1)


def low_resolution(images: Tensor, factor: float) -> Tensor:
    """Downscale by `factor` and upscale again."""
    size = images.shape[2:]
    small = (max(4, int(size[0] / factor)), max(4, int(size[1] / factor)))
    return functional.interpolate(functional.interpolate(images, size=small, mode="area"), size=size, mode="bilinear")


def jpeg_blocks(images: Tensor, step: Tensor) -> Tensor:
    """Quantise the DCT of 8 x 8 blocks; steps grow with frequency from `step` [B, 1, 1, 1], the DC coefficient's."""
    batch, channels, height, width = images.shape
    padded = functional.pad(images, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    rows, columns = padded.shape[2] // BLOCK, padded.shape[3] // BLOCK
    blocks = padded.view(batch, channels, rows, BLOCK, columns, BLOCK).transpose(3, 4)  # [B, C, rows, columns, 8, 8]
    dct = _dct_matrix()
    order = torch.arange(BLOCK)
    steps = step[..., None, None] * (1 + order[:, None] + order)  # [B, 1, 1, 1, 8, 8]
    coefficients = dct @ blocks @ dct.T
    blocks = dct.T @ ((coefficients / steps).round() * steps) @ dct
    return blocks.transpose(3, 4).reshape(padded.shape)[:, :, :height, :width]


def _dct_matrix() -> Tensor:
    """Orthonormal DCT-II matrix [8, 8]."""
    order = torch.arange(BLOCK, dtype=torch.float32)
    table = torch.cos(math.pi / BLOCK * order[:, None] * (order + 0.5)) * math.sqrt(2 / BLOCK)
    table[0] /= math.sqrt(2)
    return table
