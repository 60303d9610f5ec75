"""Language-guided query selection: every image position proposes a box; those that fit the text best become queries."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.feature_levels import Pyramid
from models.grounding_dino.heads import TokenLogits
from models.layers.blocks import Mlp

LOW, HIGH = 0.01, 0.99  # a proposal with a coordinate outside is not used
BASE_SIZE = 0.05


class Proposals(NamedTuple):
    """What every position proposes, and which of it was selected.

    logits [B, S, T] (-inf on padded tokens), boxes_cxcywh [B, S, 4] in 0..1, valid [B, S] bool; scores [B, S], the best
    token's logit; indices [B, N] int64, best first; references [B, N, 4], their boxes without gradient.
    """

    logits: Tensor
    boxes: Tensor
    valid: Tensor
    scores: Tensor
    indices: Tensor
    references: Tensor


class QuerySelection(nn.Module):
    """memory [B, S, C], text [B, T, C], text_mask [B, T] bool -> `Proposals`; the best `count` are selected."""

    def __init__(self, config: GroundingDinoConfig) -> None:
        super().__init__()
        self.output = nn.Linear(config.d_model, config.d_model)
        self.norm = nn.LayerNorm(config.d_model)
        self.box_head = Mlp(config.d_model, config.d_model, config.d_model, 4)
        self.token_logits = TokenLogits(config.logit_scale, config.logit_bias_init)

    def forward(self, memory: Tensor, pyramid: Pyramid, text: Tensor, text_mask: Tensor, count: int) -> Proposals:
        anchors = proposal_boxes(pyramid)  # [B, S, 4]
        valid = ((anchors > LOW) & (anchors < HIGH)).all(-1) & pyramid.mask
        memory = self.norm(self.output(memory.masked_fill(~valid[:, :, None], 0.0)))
        logits = self.token_logits(memory, text, text_mask)
        # The published model gives an invalid proposal infinite box logits: the box 1, 1, 1, 1. It may be selected.
        boxes = torch.sigmoid(self.box_head(memory) + torch.logit(anchors.clamp(LOW, HIGH)))
        boxes = boxes.masked_fill(~valid[:, :, None], 1.0)
        scores = logits.amax(2)
        indices = scores.topk(count, dim=1).indices
        references = boxes.detach().gather(1, indices[:, :, None].expand(-1, -1, 4))
        return Proposals(logits, boxes, valid, scores, indices, references)


def proposal_boxes(pyramid: Pyramid) -> Tensor:
    """boxes_cxcywh [B, S, 4]: one square per position, twice as wide on each coarser level."""
    sizes = [
        torch.full((height * width,), BASE_SIZE * 2.0**level, device=pyramid.centres.device)
        for level, (height, width) in enumerate(pyramid.shapes)
    ]
    size = torch.cat(sizes)[None, :, None].expand(pyramid.centres.shape[0], -1, 2)
    return torch.cat((pyramid.centres, size), 2)
