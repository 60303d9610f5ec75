"""Sine position encodings of pixels, tokens and boxes."""

import math

import torch
from torch import Tensor, nn


def sine_features(values: Tensor, count: int, temperature: float) -> Tensor:
    """values [...] -> [..., count] float: interleaved sin and cos of 2 pi * value at count / 2 wavelengths."""
    power = torch.arange(count // 2, device=values.device).float() * (2.0 / count)
    angles = (values * (2 * math.pi))[..., None] / temperature**power  # [..., count / 2]
    return torch.stack((angles.sin(), angles.cos()), -1).flatten(-2)


def token_positions(position_ids: Tensor, dim: int) -> Tensor:
    """Encode position_ids [B, T] -> [B, T, dim]."""
    return sine_features(position_ids.float(), dim, 10000.0)


def box_positions(boxes: Tensor, dim: int) -> Tensor:
    """Encode boxes_cxcywh [..., 4] -> [..., 4 * dim], in the order y, x, w, h (GroundingDINO utils.py)."""
    x, y, w, h = boxes.unbind(-1)
    return sine_features(torch.stack((y, x, w, h), -1), dim, 10000.0).flatten(-2)


class ImagePosition(nn.Module):
    """mask [B, h, w] bool -> [B, dim, h, w]: half of the channels encode y, half x, in 0..1 of the unpadded image.

    Temperature 20 (GroundingDINO backbone/position_encoding.py).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, mask: Tensor) -> Tensor:
        valid = mask.float()
        y, x = valid.cumsum(1), valid.cumsum(2)  # counts, from 1
        y = y / (y[:, -1:, :] + 1e-6)
        x = x / (x[:, :, -1:] + 1e-6)
        axes = [sine_features(axis, self.dim // 2, 20.0) for axis in (y, x)]  # [B, h, w, dim / 2]
        return torch.cat(axes, 3).permute(0, 3, 1, 2)
