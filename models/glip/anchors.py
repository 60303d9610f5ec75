"""Anchors and the boxes they stand for; boxes are x0, y0, x1, y1 in pixels, their last pixel included."""

import math

import torch
from torch import Tensor

SCALES = (10.0, 10.0, 5.0, 5.0)  # of dx, dy, dw, dh
LARGEST = math.log(1000 / 16)


def cell_anchors(sizes: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """[L, 4] the anchor of the first cell of each level (GLIP modeling/rpn/anchor_generator.py)."""
    centres = [(stride - 1) / 2 for stride in strides]
    return torch.tensor(
        [
            (c - (s - 1) / 2, c - (s - 1) / 2, c + (s - 1) / 2, c + (s - 1) / 2)
            for c, s in zip(centres, sizes, strict=True)
        ]
    )


def grid_anchors(cell: Tensor, height: int, width: int, stride: int) -> Tensor:
    """[height * width, 4]: the anchor `cell` [4] of every cell, row by row."""
    y = torch.arange(height, device=cell.device).to(cell.dtype) * stride
    x = torch.arange(width, device=cell.device).to(cell.dtype) * stride
    y, x = y[:, None].expand(-1, width), x[None, :].expand(height, -1)
    return torch.stack((x, y, x, y), -1).flatten(0, 1) + cell


def decode(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [..., S, 4] of deltas [..., S, 4] from anchors [S, 4] (GLIP modeling/rpn/vldyhead.py `BoxCoder`)."""
    size = anchors[:, 2:] - anchors[:, :2] + 1
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    move = deltas / torch.tensor(SCALES, dtype=deltas.dtype, device=deltas.device)
    centre = move[..., :2] * size + centre
    half = (move[..., 2:].clamp(max=LARGEST).exp() * size - 1) / 2
    return torch.cat((centre - half, centre + half), -1)
