"""Heads: token alignment, box deltas from anchors, centerness. Boxes are x0, y0, x1, y1 in pixels, ends included."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.glip.config import GlipConfig

DELTA_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # of dx, dy, dw, dh
MAX_LOG_RATIO = math.log(1000 / 16)  # of a box's side to its anchor's
EMBEDDING_SCALE = 0.5  # of the unit-length token before its projection (GLIP modeling/rpn/vldyhead.py)


class TokenAlignment(nn.Module):
    """Alignment of image positions [B, S, C] and tokens [B, T, W]: logits [B, S, T], -inf where text_mask is False.

    logit = x.(W e / 2 + b) / exp(log_scale) + e.bias_text + bias, with e the unit-length token.
    """

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        self.text_proj = nn.Linear(config.text.width, config.channels)
        self.log_scale = nn.Parameter(torch.full((1,), config.log_scale_init))
        self.bias_text = nn.Parameter(torch.zeros(config.text.width))
        self.bias = nn.Parameter(torch.full((1,), math.log(config.prior / (1 - config.prior))))

    def forward(self, image: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        text = F.normalize(text, dim=2)
        keys = self.text_proj(text * EMBEDDING_SCALE) / self.log_scale.exp()  # [B, T, C]
        bias = text @ self.bias_text + self.bias  # [B, T]
        logits = image @ keys.transpose(1, 2) + bias[:, None]
        return logits.masked_fill(~text_mask[:, None], -torch.inf)


class BoxHead(nn.Module):
    """Level maps [B, C, h, w] -> box deltas [B, 4, h, w] and centerness logits [B, 1, h, w] of each level."""

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        self.deltas = nn.Conv2d(config.channels, 4, 1)
        self.centerness = nn.Conv2d(config.channels, 1, 1)
        self.scales = nn.Parameter(torch.ones(len(config.strides)))
        for conv in (self.deltas, self.centerness):
            nn.init.normal_(conv.weight, std=0.01)
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, levels: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        deltas = [self.deltas(x) * self.scales[number] for number, x in enumerate(levels)]
        return deltas, [self.centerness(x) for x in levels]


def cell_anchors(sizes: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """[L, 4]: anchor of the first cell of each level (GLIP modeling/rpn/anchor_generator.py)."""
    centres = [(stride - 1) / 2 for stride in strides]
    return torch.tensor(
        [
            (c - (s - 1) / 2, c - (s - 1) / 2, c + (s - 1) / 2, c + (s - 1) / 2)
            for c, s in zip(centres, sizes, strict=True)
        ]
    )


def grid_anchors(cell: Tensor, height: int, width: int, stride: int) -> Tensor:
    """[height * width, 4]: the anchor `cell` [4] moved to every cell, row by row."""
    y = torch.arange(height, device=cell.device).to(cell.dtype) * stride
    x = torch.arange(width, device=cell.device).to(cell.dtype) * stride
    y, x = y[:, None].expand(-1, width), x[None, :].expand(height, -1)
    return torch.stack((x, y, x, y), -1).flatten(0, 1) + cell


def decode_boxes(deltas: Tensor, anchors: Tensor) -> Tensor:
    """Boxes [..., S, 4] from deltas [..., S, 4] and anchors [S, 4] (GLIP modeling/rpn/vldyhead.py `BoxCoder`)."""
    size = anchors[:, 2:] - anchors[:, :2] + 1
    centre = (anchors[:, :2] + anchors[:, 2:]) / 2
    move = deltas / torch.tensor(DELTA_WEIGHTS, dtype=deltas.dtype, device=deltas.device)
    centre = move[..., :2] * size + centre
    half = (move[..., 2:].clamp(max=MAX_LOG_RATIO).exp() * size - 1) / 2
    return torch.cat((centre - half, centre + half), -1)
