"""Modulated deformable convolution (Zhu et al. 2019, "Deformable ConvNets v2") from ordinary operators."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def deform_conv2d(
    x: Tensor, offsets: Tensor, weights: Tensor, kernel: Tensor, bias: Tensor, *, stride: int = 1, padding: int = 1
) -> Tensor:
    """Convolution with an offset and a weight for each tap at each position.

    x [B, C, H, W]; kernel [O, C, K, K]; bias [O]; offsets [B, 2 * G * K * K, h, w], (y, x) in cells of x for each tap
    of each of G groups of channels; weights [B, G * K * K, h, w]. h and w are the output's.
    Reads bilinearly, zero outside (GLIP csrc/cuda/deform_conv_kernel_cuda.cu). Returns [B, O, h, w].
    """
    batch, height, width = x.shape[0], x.shape[2], x.shape[3]
    taps = kernel.shape[2] * kernel.shape[3]
    groups = weights.shape[1] // taps
    rows, columns = weights.shape[2], weights.shape[3]
    moved = offsets.reshape(batch * groups, taps, 2, rows, columns)
    tap = torch.arange(taps, device=x.device)
    y = _grid(rows, stride, padding, x)[:, None] + (tap // kernel.shape[3])[:, None, None] + moved[:, :, 0]
    x_ = _grid(columns, stride, padding, x) + (tap % kernel.shape[3])[:, None, None] + moved[:, :, 1]
    # grid_sample's -1..1 spans the outer edges of the cells (align_corners false).
    grid = torch.stack(((2 * x_ + 1) / width - 1, (2 * y + 1) / height - 1), -1)  # [B * G, K * K, h, w, 2]
    samples = F.grid_sample(
        x.reshape(batch * groups, -1, height, width), grid.flatten(2, 3), padding_mode="zeros", align_corners=False
    )  # [B * G, C / G, K * K, h * w]
    samples = samples * weights.reshape(batch * groups, 1, taps, -1)
    columns_of_x = samples.reshape(batch, -1, samples.shape[3])  # [B, C * K * K, h * w]
    result = kernel.flatten(1) @ columns_of_x + bias[:, None]
    return result.reshape(batch, -1, rows, columns)


def _grid(count: int, stride: int, padding: int, like: Tensor) -> Tensor:
    """[count]: position of each output cell's first tap, in cells of the input."""
    return torch.arange(count, device=like.device).to(like.dtype) * stride - padding


class DeformConv(nn.Module):
    """A 3x3 modulated deformable convolution with its GroupNorm; x [B, C, H, W] -> [B, C, h, w]."""

    def __init__(self, channels: int, *, stride: int, groups: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, channels, 3)  # holds kernel and bias
        self.norm = nn.GroupNorm(groups, channels)
        nn.init.normal_(self.conv.weight, std=0.01)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, offsets: Tensor, weights: Tensor) -> Tensor:
        assert self.conv.bias is not None
        return self.norm(deform_conv2d(x, offsets, weights, self.conv.weight, self.conv.bias, stride=self.stride))
