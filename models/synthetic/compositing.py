"""Placing drawings on a canvas: position, size, rotation and flip, for a whole batch at once."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

OPAQUE = 0.5  # a pixel belongs to an object from this alpha on


@dataclass(frozen=True)
class Placement:
    """Where B drawings go.

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
        smallest: float,
        largest: float,
        turn: float,
        generator: torch.Generator,
    ) -> "Placement":
        """Anywhere on a canvas of `size` (height, width); sides in parts of its shorter side; angle up to `turn`."""
        extent = torch.tensor([size[1], size[0]], dtype=torch.float32)
        centre = torch.rand(batch, 2, generator=generator) * extent
        side = (smallest + (largest - smallest) * torch.rand(batch, generator=generator)) * min(size)
        return cls(centre, side, *random_pose(batch, turn=turn, generator=generator))


def random_pose(batch: int, *, turn: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Angle (mostly near zero, never beyond `turn`), aspect about 1, and a flip for every second drawing."""
    angle = (torch.randn(batch, generator=generator) * turn / 2).clamp(-turn, turn)
    aspect = (torch.randn(batch, generator=generator) * 0.08).clamp(-0.2, 0.2).exp()
    flip = torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    return angle, aspect, flip


def draw(drawings: Tensor, place: Placement, size: tuple[int, int], *, warp: Tensor | None = None) -> Tensor:
    """Drawings [B, C, S, S] on empty canvases [B, C, H, W] of `size` (height, width).

    `warp` [B, 2, n, n] bends a drawing: by how much, in halves of its side, what is drawn at a place of it comes from
    further right and below; between its n x n places it is interpolated.
    """
    height, width = size
    cos, sin = place.angle.cos(), place.angle.sin()
    half = place.side / 2
    # Canvas coordinates in -1..1 to drawing coordinates in -1..1: shift by the centre, rotate back, scale.
    x_row = torch.stack(
        [cos * width / 2, sin * height / 2, cos * _shift(place, 0, width) + sin * _shift(place, 1, height)], 1
    )
    y_row = torch.stack(
        [-sin * width / 2, cos * height / 2, cos * _shift(place, 1, height) - sin * _shift(place, 0, width)], 1
    )
    theta = torch.stack(
        [x_row * (place.flip / half * place.aspect)[:, None], y_row * (1 / half / place.aspect)[:, None]], 1
    )
    grid = functional.affine_grid(theta, [len(drawings), 1, height, width], align_corners=False)  # [B, H, W, 2]
    if warp is not None:
        bend = functional.grid_sample(warp, grid, mode="bilinear", padding_mode="border", align_corners=True)
        grid = grid + bend.permute(0, 2, 3, 1)
    return functional.grid_sample(drawings, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _shift(place: Placement, axis: int, extent: int) -> Tensor:
    return extent / 2 - place.centre[:, axis]


def boxes_of(alpha: Tensor) -> tuple[Tensor, Tensor]:
    """Tight boxes x0, y0, x1, y1 in pixels [B, 4] around alpha [B, H, W], and whether there is anything at all [B]."""
    solid = alpha > OPAQUE
    columns, rows = solid.any(1), solid.any(2)  # [B, W], [B, H]
    x0, x1 = _range(columns)
    y0, y1 = _range(rows)
    return torch.stack([x0, y0, x1, y1], 1).float(), columns.any(1)


def _range(present: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last True of each row."""
    length = present.shape[1]
    return present.int().argmax(1), length - present.flip(1).int().argmax(1)
