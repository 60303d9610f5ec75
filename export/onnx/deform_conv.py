"""Traces sampling at every position of a map as DeformConv, which samples, weights and sums in one pass over memory.

By GridSample, Mul and ReduceSum a sample crosses memory three times, and its place is computed anew for each channel.
The operator is of opset 19. ONNX Runtime has it on CPUs and in its CUDA provider, TensorRT-RTX has not.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import models.glip.deformable
import models.grounding_dino.deformable

FIRST_OPSET = 19
OPERATOR = "DeformConv"


@contextmanager
def deform_convs() -> Iterator[None]:
    """Trace with DeformConv while active."""
    glip, dino = models.glip.deformable, models.grounding_dino.deformable
    plain = glip.deform_conv2d, dino.sample_at_cells
    glip.deform_conv2d, dino.sample_at_cells = deform_conv2d, sample_at_cells
    try:
        yield
    finally:
        glip.deform_conv2d, dino.sample_at_cells = plain


class DeformConvOperator(torch.autograd.Function):
    """The operator, for the tracer only: its outputs in PyTorch are zeros of the right shape."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, kernel: Tensor, offsets: Tensor, bias: Tensor, weights: Tensor, attributes: dict[str, Any]
    ) -> Tensor:
        return x.new_zeros(x.shape[0], kernel.shape[0], offsets.shape[2], offsets.shape[3])

    @staticmethod
    def symbolic(g: Any, *inputs: Any) -> Any:
        *tensors, attributes = inputs
        return g.op(OPERATOR, *tensors, **attributes)


def deform_conv2d(
    x: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 1
) -> Tensor:
    """`models.glip.deformable.deform_conv2d` as one operator.

    With a stride, offsets of an odd map may leave out its last row or column, for which the operator has an output too.
    """
    sides = [int(side) for side in kernel.shape[2:]]
    rows, columns = weights.shape[2], weights.shape[3]
    if stride > 1:
        all_rows, all_columns = ((x.shape[2 + axis] + 2 * padding - sides[axis]) // stride + 1 for axis in range(2))
        spare = (0, all_columns - columns, 0, all_rows - rows)
        offsets, weights = F.pad(offsets, spare), F.pad(weights, spare)
    attributes = {
        "kernel_shape_i": sides,
        "strides_i": [stride, stride],
        "pads_i": [padding] * 4,
        "offset_group_i": int(weights.shape[1]) // (sides[0] * sides[1]),
    }
    output: Tensor = DeformConvOperator.apply(x, kernel, offsets, bias, weights, attributes)
    return output[:, :, :rows, :columns] if stride > 1 else output


def sample_at_cells(
    value: Tensor, shapes: Sequence[tuple[int, int]], offsets: Tensor, weights: Tensor, centre: Tensor, step: Tensor
) -> Tensor:
    """`models.grounding_dino.deformable.sample_at_cells`, of each level by a depthwise convolution of P taps of one.

    The operator has one output for each position of its input. So the queries are laid row by row on a grid as wide as
    the finest level, and each level is padded to its size with zeros, which is what lies outside.
    """
    batch, count = value.shape[0], value.shape[1]
    heads, width, points = (int(size) for size in (*value.shape[2:], offsets.shape[4]))
    columns = shapes[0][1]
    rows = (count + columns - 1) // columns
    spare = rows * columns - count
    before = (points - 1) // 2  # columns of padding, and thus of the taps left of a query
    attributes = {
        "kernel_shape_i": [1, points],
        "pads_i": [0, before, 0, points - 1 - before],
        "group_i": heads * width,
        "offset_group_i": heads,
    }
    taps = torch.arange(points, device=value.device)[:, None] - before  # [P, 1]
    moves = F.pad(_moves(offsets, shapes, centre, step, columns, taps), (0, spare))  # [B, h, L, P, 2, rows * columns]
    scales = F.pad(weights.permute(0, 2, 3, 4, 1), (0, spare))  # [B, h, L, P, rows * columns]
    channels = value.flatten(2).transpose(1, 2)  # [B, h * d, S]
    kernel, bias = value.new_ones(heads * width, 1, 1, points), value.new_zeros(heads * width)
    start, sums = 0, []
    for level, (height, level_width) in enumerate(shapes):
        end = start + height * level_width
        level_map = channels[:, :, start:end].reshape(batch, heads * width, height, level_width)
        level_map = F.pad(level_map, (0, columns - level_width, 0, rows - height))
        level_moves = moves[:, :, level].reshape(batch, heads * points * 2, rows, columns)
        level_scales = scales[:, :, level].reshape(batch, heads * points, rows, columns)
        sums.append(DeformConvOperator.apply(level_map, kernel, level_moves, bias, level_scales, attributes))
        start = end
    total = sum(sums[1:], sums[0])  # [B, h * d, rows, columns]
    return total.flatten(2)[:, :, :count].transpose(1, 2)


def _moves(
    offsets: Tensor, shapes: Sequence[tuple[int, int]], centre: Tensor, step: Tensor, columns: int, taps: Tensor
) -> Tensor:
    """[B, h, L, P, 2, S]: (y, x) from each tap at its query's place on the grid to the sampling point, in cells."""
    one = torch.ones(1, device=offsets.device)
    sizes = torch.stack([torch.cat((one * width, one * height)) for height, width in shapes])  # [L, 2] (x, y)
    query = torch.arange(offsets.shape[1], device=offsets.device)
    row = query // columns
    own_x, own_y = (query - row * columns).float(), row.float()  # [S]
    steps = (step * sizes).permute(0, 2, 3, 1)[:, None, :, None]  # [B or 1, 1, L, 1, 2, S or 1], in cells
    middle = (centre * sizes - 0.5).permute(0, 2, 3, 1)[:, None, :, None]  # [B, 1, L, 1, 2, S], in cells
    moved = offsets.permute(0, 2, 3, 4, 5, 1) * steps  # [B, h, L, P, 2, S]
    x = moved[:, :, :, :, 0] + (middle[:, :, :, :, 0] - own_x - taps)
    y = moved[:, :, :, :, 1] + (middle[:, :, :, :, 1] - own_y)
    return torch.stack((y, x), 4)
