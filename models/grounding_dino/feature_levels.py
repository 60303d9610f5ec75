"""Geometry of the feature levels: their masks, valid ratios and cell centres.

Shape letters of this family: B batch, L levels, S positions of all levels in a row, N queries, T tokens, C channels,
h heads, d channels of a head, P points. Levels are flattened finest first, each row by row.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.layers.nearest import nearest_index


class Pyramid(NamedTuple):
    """Where the S positions lie.

    shapes: (height, width) of each level; mask [B, S] bool, True = image; valid_ratios [B, L, 2] (x, y), the share of a
    level that is image; cells [1, 1, L, 2] (x, y), the size of a level's cell in 0..1 of the padded level; centres
    [B, S, 2] (x, y), each cell's middle in 0..1 of the unpadded image.
    """

    shapes: list[tuple[int, int]]
    mask: Tensor
    valid_ratios: Tensor
    cells: Tensor
    centres: Tensor


def level_mask(pixel_mask: Tensor, height: int, width: int) -> Tensor:
    """pixel_mask [B, H, W] bool at [B, height, width], by nearest neighbour."""
    rows = nearest_index(pixel_mask.shape[1], height, pixel_mask.device)
    columns = nearest_index(pixel_mask.shape[2], width, pixel_mask.device)
    return pixel_mask.index_select(1, rows).index_select(2, columns)


def build_pyramid(masks: Sequence[Tensor]) -> Pyramid:
    """The pyramid of level masks [B, h, w] bool."""
    shapes, ratios, cells, centres = [], [], [], []
    one = torch.ones(1, device=masks[0].device)
    for mask in masks:
        height, width = mask.shape[1], mask.shape[2]
        valid_width = mask[:, 0, :].float().sum(1, keepdim=True)  # [B, 1]
        valid_height = mask[:, :, 0].float().sum(1, keepdim=True)
        x = (torch.arange(width, device=mask.device).float() + 0.5) / valid_width  # [B, w]
        y = (torch.arange(height, device=mask.device).float() + 0.5) / valid_height  # [B, h]
        grid = torch.stack((x[:, None, :].expand(-1, height, -1), y[:, :, None].expand(-1, -1, width)), 3)
        shapes.append((height, width))
        ratios.append(torch.cat((valid_width / width, valid_height / height), 1))
        cells.append(torch.cat((one / width, one / height)))
        centres.append(grid.flatten(1, 2))  # [B, h * w, 2]
    mask = torch.cat([m.flatten(1) for m in masks], 1)
    return Pyramid(shapes, mask, torch.stack(ratios, 1), torch.stack(cells)[None, None], torch.cat(centres, 1))
