"""Cross-modality decoder: queries look at each other, the text and the image, and refine their boxes layer by layer."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.deformable import DeformableAttention
from models.grounding_dino.feature_levels import Pyramid
from models.grounding_dino.heads import inverse_sigmoid
from models.grounding_dino.position_encoding import box_positions
from models.layers.blocks import Attention, FeedForward, Mlp


class DecoderLayer(nn.Module):
    """queries [B, N, C] -> [B, N, C]; boxes_cxcywh [B, N, L, 4], text_mask [B, 1, 1, T] bool; visible, None or
    [B, 1, N, N] bool, which queries a query may look at.

    Points are sought around the box's centre, an offset of P being half its width or height.
    """

    def __init__(self, config: GroundingDinoConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config.d_model, config.heads)
        self.self_norm = nn.LayerNorm(config.d_model)
        self.text_attn = Attention(config.d_model, config.heads)
        self.text_norm = nn.LayerNorm(config.d_model)
        self.points = config.points
        self.image_attn = DeformableAttention(config.d_model, config.heads, config.levels, config.points)
        self.image_norm = nn.LayerNorm(config.d_model)
        self.ffn = FeedForward(config.d_model, config.ffn_hidden, activation="relu")
        self.ffn_norm = nn.LayerNorm(config.d_model)

    def forward(
        self,
        queries: Tensor,
        positions: Tensor,
        boxes: Tensor,
        memory: Tensor,
        pyramid: Pyramid,
        text: Tensor,
        text_mask: Tensor,
        visible: Tensor | None,
    ) -> Tensor:
        centre, step = boxes[..., :2], boxes[..., 2:] * (0.5 / self.points)
        x = queries
        placed = x + positions
        x = self.self_norm(x + self.self_attn(placed, placed, x, visible))
        x = self.text_norm(x + self.text_attn(x + positions, text, text, text_mask))
        x = self.image_norm(x + self.image_attn(x + positions, memory, pyramid.mask, pyramid.shapes, centre, step))
        return self.ffn_norm(x + self.ffn(x))


class DecoderOutput(NamedTuple):
    """Of each layer: normed states [B, N, C]; references, boxes_cxcywh [B, N, 4] that enter it (and leave the last)."""

    states: list[Tensor]
    references: list[Tensor]


class Decoder(nn.Module):
    """queries [B, N, C] and their boxes_cxcywh [B, N, 4] -> `DecoderOutput`.

    Layers refine the box with the un-normed state; the next layer gets it without gradient. `visible`: as for a layer.
    """

    def __init__(self, config: GroundingDinoConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.position_head = Mlp(2 * config.d_model, config.d_model, config.d_model)

    def forward(
        self,
        queries: Tensor,
        boxes: Tensor,
        memory: Tensor,
        pyramid: Pyramid,
        text: Tensor,
        text_mask: Tensor,
        box_head: nn.Module,
        visible: Tensor | None = None,
    ) -> DecoderOutput:
        ratios = torch.cat((pyramid.valid_ratios, pyramid.valid_ratios), 2)[:, None]  # [B, 1, L, 4]
        keys = text_mask[:, None, None, :]
        states, references = [], [boxes]
        for layer in self.layers:
            reference = boxes[:, :, None] * ratios  # [B, N, L, 4], in 0..1 of the padded levels
            positions = self.position_head(box_positions(reference[:, :, 0], queries.shape[2] // 2))
            queries = layer(queries, positions, reference, memory, pyramid, text, keys, visible)
            refined = torch.sigmoid(box_head(queries) + inverse_sigmoid(boxes))
            boxes = refined.detach()
            states.append(self.norm(queries))
            references.append(refined)
        return DecoderOutput(states, references)
