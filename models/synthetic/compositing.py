"""Batched affine placement of sprites on a canvas, and the boxes of what is visible."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

ALPHA_THRESHOLD = 0.5  # pixels of a higher alpha belong to an object


@dataclass(frozen=True)
class Placement:
    """Affine placement of B sprites.

    centre (x, y) [B, 2] and longer side [B] in pixels, angle [B] in radians, aspect [B], flip [B] (-1 or 1).
    """

    centre: Tensor
    side: Tensor
    angle: Tensor
    aspect: Tensor
    flip: Tensor

    @classmethod
    def random(
        cls,
        batch: int,
        size: tuple[int, int],
        *,
        min_side: float,
        max_side: float,
        max_angle: float,
        generator: torch.Generator,
    ) -> "Placement":
        """Uniform on a canvas of `size` (height, width); sides are fractions of its shorter side."""
        extent = torch.tensor([size[1], size[0]], dtype=torch.float32)
        centre = torch.rand(batch, 2, generator=generator) * extent
        side = (min_side + (max_side - min_side) * torch.rand(batch, generator=generator)) * min(size)
        return cls(centre, side, *random_pose(batch, max_angle=max_angle, generator=generator))


def random_pose(batch: int, *, max_angle: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Angle (normal, clamped to `max_angle` radians), aspect ratio about 1, and horizontal flip (-1 or 1), each [B]."""
    angle = (torch.randn(batch, generator=generator) * max_angle / 2).clamp(-max_angle, max_angle)
    aspect = (torch.randn(batch, generator=generator) * 0.08).clamp(-0.2, 0.2).exp()
    flip = torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    return angle, aspect, flip


def render_sprites(
    sprites: Tensor, placement: Placement, size: tuple[int, int], *, warp: Tensor | None = None
) -> Tensor:
    """Resample sprites [B, C, S, S] onto empty canvases [B, C, H, W] of `size` (height, width).

    `warp` [B, 2, n, n] is a displacement field (x, y) over the sprite, in halves of its side, interpolated bilinearly.
    """
    height, width = size
    cos, sin = placement.angle.cos(), placement.angle.sin()
    half = placement.side / 2
    # From canvas to sprite coordinates, both in -1..1: subtract the centre, rotate back, scale.
    x_row = torch.stack(
        [cos * width / 2, sin * height / 2, cos * _shift(placement, 0, width) + sin * _shift(placement, 1, height)], 1
    )
    y_row = torch.stack(
        [-sin * width / 2, cos * height / 2, cos * _shift(placement, 1, height) - sin * _shift(placement, 0, width)], 1
    )
    theta = torch.stack(
        [x_row * (placement.flip / half * placement.aspect)[:, None], y_row * (1 / half / placement.aspect)[:, None]], 1
    )
    grid = functional.affine_grid(theta, [len(sprites), 1, height, width], align_corners=False)  # [B, H, W, 2]
    if warp is not None:
        offset = functional.grid_sample(warp, grid, mode="bilinear", padding_mode="border", align_corners=True)
        grid = grid + offset.permute(0, 2, 3, 1)
    return functional.grid_sample(sprites, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _shift(placement: Placement, axis: int, extent: int) -> Tensor:
    return extent / 2 - placement.centre[:, axis]


def alpha_boxes(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Tight boxes x0, y0, x1, y1 in pixels [B, 4] around alpha [B, H, W], and a mask [B], False for an empty one."""
    solid = alpha > ALPHA_THRESHOLD
    columns, rows = solid.any(1), solid.any(2)  # [B, W], [B, H]
    x0, x1 = _range(columns)
    y0, y1 = _range(rows)
    return torch.stack([x0, y0, x1, y1], 1).float(), columns.any(1)


def _range(present: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the first True of each row, and one past the last."""
    length = present.shape[1]
    return present.int().argmax(1), length - present.flip(1).int().argmax(1)
