"""Language-guided query selection: every image position proposes a box; the best matches of the text become queries."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.feature_levels import FeatureLevels
from models.layers.blocks import Mlp

LOW, HIGH = 0.01, 0.99  # a proposal with a coordinate outside is invalid
BASE_SIZE = 0.05  # of a proposal on the finest level


class Proposals(NamedTuple):
    """Proposals of all positions, and the selected ones.

    logits [B, S, T] (-inf on padded tokens), boxes_cxcywh [B, S, 4] in 0..1, valid [B, S] bool; scores [B, S], the best
    token's logit; indices [B, N] int64, best first; references [B, N, 4], their boxes, detached.
    """

    logits: Tensor
    boxes: Tensor
    valid: Tensor
    scores: Tensor
    indices: Tensor
    references: Tensor


class TokenLogits(nn.Module):
    """Token logits: queries [B, N, C], text [B, T, C], text_mask [B, T] bool -> [B, N, T], -inf on padded tokens."""

    def __init__(self, scale: float, bias_init: float | None) -> None:
        super().__init__()
        self.scale = scale
        self.bias = None if bias_init is None else nn.Parameter(torch.tensor(bias_init))

    def forward(self, queries: Tensor, text: Tensor, text_mask: Tensor) -> Tensor:
        logits = queries @ (text * self.scale).transpose(1, 2)
        if self.bias is not None:
            logits = logits + self.bias
        return logits.masked_fill(~text_mask[:, None, :], -torch.inf)


class QuerySelection(nn.Module):
    """memory [B, S, C], text [B, T, C], text_mask [B, T] bool -> `Proposals`, the best `count` of them selected.

    known [B, S, T], if given, is added to the logits.
    """

    def __init__(self, config: GroundingDinoConfig) -> None:
        super().__init__()
        self.output = nn.Linear(config.d_model, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)
        self.box_head = Mlp(config.d_model, config.d_model, config.d_model, 4)
        self.token_logits = TokenLogits(config.logit_scale, config.logit_bias_init)

    def forward(
        self,
        memory: Tensor,
        levels: FeatureLevels,
        text: Tensor,
        text_mask: Tensor,
        count: int,
        known: Tensor | None = None,
    ) -> Proposals:
        anchors = proposal_boxes(levels)  # [B, S, 4]
        valid = ((anchors > LOW) & (anchors < HIGH)).all(-1) & levels.mask
        memory = self.norm(self.output(memory.masked_fill(~valid[:, :, None], 0.0)))
        logits = self.token_logits(memory, text, text_mask)
        if known is not None:
            logits = logits + known
        # The published model gives an invalid proposal infinite box logits: the box 1, 1, 1, 1. It may be selected.
        boxes = torch.sigmoid(self.box_head(memory) + torch.logit(anchors.clamp(LOW, HIGH)))
        boxes = boxes.masked_fill(~valid[:, :, None], 1.0)
        scores = logits.amax(2)
        indices = scores.topk(count, dim=1).indices
        references = boxes.detach().gather(1, indices[:, :, None].expand(-1, -1, 4))
        return Proposals(logits, boxes, valid, scores, indices, references)


def proposal_boxes(levels: FeatureLevels) -> Tensor:
    """boxes_cxcywh [B, S, 4]: one square per position, twice as wide on each coarser level."""
    sizes = [
        torch.full((height * width,), BASE_SIZE * 2.0**level, device=levels.centres.device)
        for level, (height, width) in enumerate(levels.shapes)
    ]
    size = torch.cat(sizes)[None, :, None].expand(levels.centres.shape[0], -1, 2)
    return torch.cat((levels.centres, size), 2)
