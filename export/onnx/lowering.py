"""Lowering of bilinear sampling to GridSample or to gathers, chosen for each export and unknown to the models.

TensorRT has miscompiled deformable attention built from GridSample (NVIDIA/TensorRT issues 4646 and 4813). Both forms
are the same function within float32 rounding.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from server.contract.manifest import LOWERINGS, Lowering


class Lowered(TorchFunctionMode):
    """While active, traces every `F.grid_sample` by `lowering`; `met` becomes True at the first one."""

    def __init__(self, lowering: Lowering) -> None:
        super().__init__()
        self.lowering, self.met = lowering, False

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func is F.grid_sample:
            self.met = True
            func = gather_sample if self.lowering == "gather" else func
        return func(*args, **(kwargs or {}))


@contextmanager
def lowered(lowering: Lowering) -> Iterator[Lowered]:
    """Trace with one lowering; ValueError for an unknown one."""
    if lowering not in LOWERINGS:
        raise ValueError(f"lowering is {lowering!r}; accepted are {LOWERINGS}")
    with Lowered(lowering) as mode:
        yield mode


def gather_sample(
    maps: Tensor, grid: Tensor, mode: str = "bilinear", padding_mode: str = "zeros", align_corners: bool | None = None
) -> Tensor:
    """`F.grid_sample` of maps [N, C, H, W] at grid [N, P, Q, 2] (x, y in -1..1), bilinear and zero outside.

    Each corner is a gather of rows of C channels, from maps with a border of zeros. Returns [N, C, P, Q].
    """
    if (mode, padding_mode, bool(align_corners)) != ("bilinear", "zeros", False) or maps.dim() != 4:
        raise ValueError(
            f"grid_sample of {maps.dim() - 2} dimensions with mode={mode!r}, padding_mode={padding_mode!r},"
            f" align_corners={align_corners!r} has no lowering to gathers; 2, bilinear, zeros and False have one"
        )
    count, channels, height, width = maps.shape
    rows = F.pad(maps, (1, 1, 1, 1)).permute(0, 2, 3, 1).reshape(-1, channels)  # [N * (H + 2) * (W + 2), C]
    first = torch.arange(count, device=maps.device)[:, None, None] * ((height + 2) * (width + 2))  # [N, 1, 1]
    columns, column_weights = _neighbours(grid[..., 0], width)
    lines, line_weights = _neighbours(grid[..., 1], height)
    corners = []
    for line, line_weight in zip(lines, line_weights, strict=True):
        start = first + line * (width + 2)
        for column, column_weight in zip(columns, column_weights, strict=True):
            values = rows.index_select(0, (start + column).reshape(-1))  # [N * P * Q, C]
            corners.append(values * (line_weight * column_weight).reshape(-1, 1))
    total = (corners[0] + corners[1]) + (corners[2] + corners[3])
    return total.reshape(count, grid.shape[1], grid.shape[2], channels).permute(0, 3, 1, 2)


def _neighbours(position: Tensor, size: int) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Cells before and after each position (-1..1), counted in the bordered map, and the weight of each.

    Clamped as float: a position far outside, which falls on the border, need not fit an integer.
    """
    cell = ((position + 1) * size - 1) / 2
    before = cell.floor()
    share = cell - before
    cells = [(edge.clamp(-1, size) + 1).long() for edge in (before, before + 1)]
    return (cells[0], cells[1]), (1 - share, share)
