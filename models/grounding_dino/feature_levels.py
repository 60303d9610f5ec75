"""Feature levels: the neck that makes them, and their geometry (masks, valid ratios, cell centres).

Shape letters of this family: B batch, L levels, S positions of all levels in a row, N queries, T tokens, C channels,
h heads, d channels of a head, P points. Levels are flattened finest first, each row by row.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from models.grounding_dino.config import GroundingDinoConfig
from models.layers.backbone import nearest_index

GROUPS = 32


class Neck(nn.Module):
    """Backbone maps -> `levels` maps [B, d_model, h, w]; stride-2 convolutions make the levels beyond the backbone's.

    The first of those reads the last backbone map itself, not its projection (GroundingDINO groundingdino.py).
    """

    def __init__(self, config: GroundingDinoConfig) -> None:
        super().__init__()
        channels = [config.backbone.channels[stage] for stage in config.stages]
        self.lateral = nn.ModuleList(_project(c, config.d_model, kernel=1, stride=1) for c in channels)
        extra = config.levels - len(channels)
        inputs = [channels[-1], *[config.d_model] * extra][:extra]
        self.extra = nn.ModuleList(_project(c, config.d_model, kernel=3, stride=2) for c in inputs)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        levels = [project(x) for project, x in zip(self.lateral, maps, strict=True)]
        last = maps[-1]
        for project in self.extra:
            last = project(last)
            levels.append(last)
        return levels


def _project(inputs: int, outputs: int, *, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2)
    nn.init.xavier_uniform_(conv.weight)
    nn.init.zeros_(cast(Tensor, conv.bias))
    return nn.Sequential(conv, nn.GroupNorm(GROUPS, outputs))


class FeatureLevels(NamedTuple):
    """Geometry of the S positions of all levels.

    shapes: (height, width) of each level; mask [B, S] bool, True = image; valid_ratios [B, L, 2] (x, y), the part of a
    level that is image; cells [1, 1, L, 2] (x, y), size of a cell in 0..1 of the padded level; centres [B, S, 2]
    (x, y), centre of each cell in 0..1 of the unpadded image.
    """

    shapes: list[tuple[int, int]]
    mask: Tensor
    valid_ratios: Tensor
    cells: Tensor
    centres: Tensor


def level_mask(pixel_mask: Tensor, height: int, width: int) -> Tensor:
    """Resize pixel_mask [B, H, W] bool to [B, height, width], by nearest neighbour."""
    rows = nearest_index(pixel_mask.shape[1], height, pixel_mask.device)
    columns = nearest_index(pixel_mask.shape[2], width, pixel_mask.device)
    return pixel_mask.index_select(1, rows).index_select(2, columns)


def level_geometry(masks: Sequence[Tensor]) -> FeatureLevels:
    """Geometry of levels with the masks [B, h, w] bool."""
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
    return FeatureLevels(shapes, mask, torch.stack(ratios, 1), torch.stack(cells)[None, None], torch.cat(centres, 1))
