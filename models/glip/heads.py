"""What turns the tower's maps into token logits, boxes and centerness."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.glip.config import GlipConfig

EMBEDDING_SCALE = 0.5  # of the unit-length token before its projection (GLIP modeling/rpn/vldyhead.py)


class TokenAlignment(nn.Module):
    """Scores image positions [B, S, C] against tokens [B, T, W]: logits [B, S, T], -inf where text_mask [B, T] is not.

    logit = x.(W e / 2 + b) / exp(log_scale) + e.bias_text + bias, with e the token at unit length.
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
