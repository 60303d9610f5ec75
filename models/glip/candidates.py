"""Which positions may become detections: few enough to move, and enough for the official answer.

The official code keeps, of each level, the best pairs of position and label (GLIP modeling/rpn/inference.py
`ATSSPostProcessor`). What is chosen here holds all of those pairs and nothing else scores above 0.
"""

import torch
from torch import Tensor

from models.glip.config import GlipConfig
from models.glip.model import GlipOutput

NO_LABEL = -1


def candidates(
    output: GlipOutput, token_label: Tensor, pixel_mask: Tensor, config: GlipConfig
) -> tuple[Tensor, Tensor]:
    """token_label [B, T] int64 (-1: of no label), pixel_mask [B, H, W] bool -> token_scores [B, N, T], boxes [B, N, 4].

    Every token of a label carries the label's score, sqrt(mean token score x centerness), or 0 where the pair was not
    kept. Boxes are cx, cy, w, h in 0..1 of the unpadded image. N is the sum over levels of the lesser of
    `candidates_per_level` and the level's positions, best first in each.
    """
    label_mean = _label_mean(token_label)  # [B, T, T]
    first = _first_of_label(token_label)  # [B, T]
    scores, boxes, start = [], [], 0
    for size in output.level_sizes:
        end = start + size
        kept, rows = _level(
            output.token_logits[:, start:end], output.centerness[:, start:end], label_mean, first, config
        )
        scores.append(kept)
        boxes.append(output.boxes_xyxy[:, start:end].gather(1, rows[:, :, None].expand(-1, -1, 4)))
        start = end
    return torch.cat(scores, 1).sqrt(), to_unit(torch.cat(boxes, 1), pixel_mask)


def rank_keys(token_logits: Tensor, centerness: Tensor, label_mean: Tensor, candidate_score: float) -> Tensor:
    """[B, S, T]: score x centerness of each token's label, less 1 where the label is no candidate or there is none.

    So candidates come first, and the others have an order too.
    """
    labels = token_logits.sigmoid() @ label_mean.transpose(1, 2)  # [B, S, T]
    return labels * centerness.sigmoid()[:, :, None] - (labels <= candidate_score).to(labels.dtype)


def _level(
    token_logits: Tensor, centerness: Tensor, label_mean: Tensor, first: Tensor, config: GlipConfig
) -> tuple[Tensor, Tensor]:
    """Of one level: scores before the square root [B, K, T] and the positions [B, K] they belong to."""
    keys = rank_keys(token_logits, centerness, label_mean, config.candidate_score)
    best = keys.amax(2)
    rows = best.topk(_at_most(config.candidates_per_level, best), dim=1).indices  # [B, K]
    chosen = keys.gather(1, rows[:, :, None].expand(-1, -1, keys.shape[2]))  # [B, K, T]
    # A pair of one of these positions may still be too many: position for position they hold at most all best pairs.
    pairs = chosen.masked_fill(~first[:, None], -1.0).flatten(1)
    last = pairs.topk(_at_most(config.candidates_per_level, pairs), dim=1).values[:, -1:]  # [B, 1]
    return chosen.masked_fill(chosen < last[:, :, None], 0.0).clamp(min=0), rows


def _at_most(limit: int, values: Tensor) -> int:
    """min(limit, values.shape[1]), which a tracer does not write down as a constant."""
    return torch.arange(limit)[: values.shape[1]].shape[0]


def _label_mean(token_label: Tensor) -> Tensor:
    """[B, T, T]: the row of a token averages over the tokens of its label; zeros where it has none."""
    same = (token_label[:, :, None] == token_label[:, None]) & (token_label[:, :, None] != NO_LABEL)
    return same.float() / same.float().sum(2, keepdim=True).clamp(min=1)


def _first_of_label(token_label: Tensor) -> Tensor:
    """[B, T] bool: whether a token is the first of its label, whose tokens stand together."""
    begins = torch.ones_like(token_label[:, :1], dtype=torch.bool)
    changes = torch.cat((begins, token_label[:, 1:] != token_label[:, :-1]), 1)
    return changes & (token_label != NO_LABEL)


def to_unit(boxes_xyxy: Tensor, pixel_mask: Tensor) -> Tensor:
    """Boxes [B, N, 4] x0, y0, x1, y1 in pixels -> cx, cy, w, h in 0..1 of the unpadded image."""
    width = pixel_mask[:, 0, :].float().sum(1)
    height = pixel_mask[:, :, 0].float().sum(1)
    boxes = boxes_xyxy / torch.stack((width, height, width, height), 1)[:, None]
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), -1)
