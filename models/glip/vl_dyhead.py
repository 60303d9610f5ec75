"""The tower of the head: fusion, a BERT layer for the text and a dynamic convolution for the image, again and again."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.glip.config import GlipConfig
from models.glip.dyhead import DynamicConv
from models.layers.bert import BertLayer
from models.layers.fusion import FusionLayer


class Fused(NamedTuple):
    """Level maps [B, C, h, w], and text [B, T, W]."""

    levels: list[Tensor]
    text: Tensor


class TowerLayer(nn.Module):
    """One layer; without fusion the text passes through as it is (GLIP modeling/rpn/vldyhead.py `VLDyHead`).

    BERT's scores and activations are clamped at +-50000 there for half precision; in float32 that changes nothing.
    """

    def __init__(self, config: GlipConfig) -> None:
        super().__init__()
        self.fusion = self.text_layer = None
        if config.fused:
            gamma = 1 / config.tower_layers
            self.fusion = FusionLayer(
                config.channels, config.text.width, config.fusion_hidden, config.fusion_heads, gamma
            )
            self.text_layer = BertLayer(config.text)
            # It starts by letting each token pass: fresh attention makes all tokens alike, and nothing to tell labels
            # apart by is left for the alignment to learn from.
            for linear in (self.text_layer.attention.out_proj, self.text_layer.ffn.fc2):
                nn.init.zeros_(linear.weight)
                nn.init.zeros_(linear.bias)
        self.conv = DynamicConv(config)

    def forward(self, levels: list[Tensor], text: Tensor, text_mask: Tensor) -> Fused:
        """text_mask [B, T] bool, True = token."""
        if self.fusion is not None and self.text_layer is not None:
            image, text = self.fusion(flattened(levels), text, None, text_mask)
            levels = like(image, levels)
            text = self.text_layer(text, text_mask[:, None, None])
        return Fused(self.conv(levels), text)


def flattened(levels: list[Tensor]) -> Tensor:
    """Level maps [B, C, h, w] in a row: [B, S, C], the finest level first, each row by row."""
    return torch.cat([x.flatten(2).transpose(1, 2) for x in levels], 1)


def like(image: Tensor, levels: list[Tensor]) -> list[Tensor]:
    """The inverse of `flattened`: [B, S, C] cut into maps of the sizes of `levels`."""
    maps, start = [], 0
    for x in levels:
        end = start + x.shape[2] * x.shape[3]
        part = image[:, start:end].transpose(1, 2)
        maps.append(part.reshape(x.shape[0], -1, x.shape[2], x.shape[3]))
        start = end
    return maps
