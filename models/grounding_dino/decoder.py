"""Cross-modality decoder: queries attend to each other, the text and the image, and refine boxes layer by layer."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.deformable import DeformableAttention
from models.grounding_dino.feature_levels import FeatureLevels
from models.grounding_dino.position_encoding import box_positions
from models.layers.blocks import Attention, FeedForward, Mlp

BOX_EPS = 1e-3  # of util/misc.py in GroundingDINO; its other inverse_sigmoid, with 1e-5, is not used by the model


class DecoderLayer(nn.Module):
    """queries [B, N, C] -> [B, N, C]; boxes_cxcywh [B, N, L, 4], text_mask [B, 1, 1, T] bool; query_mask None or
    [B, 1, N, N] bool, True where a query may attend to another.

    Sampling points lie around the box's centre; an offset of P is half its width or height.
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
        levels: FeatureLevels,
        text: Tensor,
        text_mask: Tensor,
        query_mask: Tensor | None,
    ) -> Tensor:
        centre, step = boxes[..., :2], boxes[..., 2:] * (0.5 / self.points)
        x = queries
        positioned = x + positions
        x = self.self_norm(x + self.self_attn(positioned, positioned, x, query_mask))
        x = self.text_norm(x + self.text_attn(x + positions, text, text, text_mask))
        x = self.image_norm(x + self.image_attn(x + positions, memory, levels.mask, levels.shapes, centre, step))
        return self.ffn_norm(x + self.ffn(x))


class DecoderOutput(NamedTuple):
    """Per layer: normed states [B, N, C]; references, its input boxes_cxcywh [B, N, 4], and the last layer's output."""

    states: list[Tensor]
    references: list[Tensor]


class Decoder(nn.Module):
    """queries [B, N, C] and their boxes_cxcywh [B, N, 4] -> `DecoderOutput`.

    Layers refine the boxes with the un-normed state, by a box head each; the next layer gets them detached. query_mask:
    as for a layer.
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
        levels: FeatureLevels,
        text: Tensor,
        text_mask: Tensor,
        box_heads: Sequence[nn.Module],
        query_mask: Tensor | None = None,
    ) -> DecoderOutput:
        ratios = torch.cat((levels.valid_ratios, levels.valid_ratios), 2)[:, None]  # [B, 1, L, 4]
        keys = text_mask[:, None, None, :]
        states, references = [], [boxes]
        for layer, box_head in zip(self.layers, box_heads, strict=True):
            reference = boxes[:, :, None] * ratios  # [B, N, L, 4], in 0..1 of the padded levels
            positions = self.position_head(box_positions(reference[:, :, 0], queries.shape[2] // 2))
            queries = layer(queries, positions, reference, memory, levels, text, keys, query_mask)
            refined = torch.sigmoid(box_head(queries) + inverse_sigmoid(boxes))
            boxes = refined.detach()
            states.append(self.norm(queries))
            references.append(refined)
        return DecoderOutput(states, references)


def inverse_sigmoid(x: Tensor) -> Tensor:
    """logit(x), with x and 1 - x clamped to at least `BOX_EPS`."""
    x = x.clamp(0.0, 1.0)
    return torch.log(x.clamp(min=BOX_EPS) / (1 - x).clamp(min=BOX_EPS))
