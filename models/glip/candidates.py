"""Candidate selection: the positions that may become detections, so that a graph need not return all of them.

The official code keeps, of each level, the best pairs of position and label (GLIP modeling/rpn/inference.py
`ATSSPostProcessor`). The candidates hold exactly those pairs; every other pair scores 0.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from models.glip.config import GlipConfig
from models.glip.model import GlipOutput
from server.contract.text import NO_LABEL


def candidates(
    output: GlipOutput, token_label: Tensor, pixel_mask: Tensor, config: GlipConfig
) -> tuple[Tensor, Tensor]:
    """Select candidates: token_label [B, T] int64 (-1: no label), pixel_mask [B, H, W] bool -> token_scores [B, N, T],
    boxes [B, N, 4].

    Every token of a label carries the label's score, sqrt(mean token score x centerness), or 0 where the pair was not
    kept. Boxes are cx, cy, w, h in 0..1 of the unpadded image. N is the sum over levels of
    min(candidates_per_level, positions of the level), best first in each.
    """
    same = _same_label(token_label)  # [B, T, T]
    first = _first_of_label(token_label)  # [B, T]
    scores, boxes = [], []
    for level in _levels(output):
        keys = _rank_keys(_label_means(level, same), level.centerness, config.candidate_score)
        kept, rows = _select(keys, first, config)
        scores.append(kept.sqrt() @ same)  # from the first token to all tokens of the label, bit for bit
        boxes.append(level.boxes_xyxy.gather(1, rows[:, :, None].expand(-1, -1, 4)))
    return torch.cat(scores, 1), to_unit(torch.cat(boxes, 1), pixel_mask)


def rank_is_decided(output: GlipOutput, token_label: Tensor, config: GlipConfig, *, near: float) -> Tensor:
    """[B, N] bool: True where a candidate's rank is decided by more than noise.

    near: relative difference of scores below which two positions may swap, and a label near the candidate score, or
    near the last pair that is kept, may be in or out.
    """
    same, first = _same_label(token_label), _first_of_label(token_label)
    decided = []
    for level in _levels(output):
        labels = _label_means(level, same)
        keys = _rank_keys(labels, level.centerness, config.candidate_score)
        best, order = keys.amax(2).sort(1, descending=True)
        count = min(config.candidates_per_level, best.shape[1])
        rows = order[:, :count, None].expand(-1, -1, keys.shape[2])
        # The key of no candidate is near -1, where it is rounded more coarsely than the score in it.
        steps = (best[:, :-1] - best[:, 1:]) - torch.finfo(best.dtype).eps * (best[:, 1:] < 0)
        gaps = steps / _score_of(best[:, :-1])
        edge = torch.full_like(best[:, :1], torch.inf)
        apart = torch.minimum(torch.cat((edge, gaps), 1), torch.cat((gaps, edge), 1))[:, :count] > near
        at_floor = (labels.gather(1, rows) / config.candidate_score - 1).abs() < near
        chosen = keys.gather(1, rows)
        at_last = (chosen / _last_kept(chosen, first, config)[:, :, None] - 1).abs() < near
        # The last pair is near itself; that matters only where there are more pairs than are kept.
        at_last = at_last & (chosen.flatten(1).shape[1] > config.candidates_per_level)
        decided.append(apart & ~((at_floor | at_last) & (token_label != NO_LABEL)[:, None]).any(2))
    return torch.cat(decided, 1)


def _levels(output: GlipOutput) -> Iterator[GlipOutput]:
    start = 0
    for size in output.level_sizes:
        end = start + size
        yield GlipOutput(
            output.token_logits[:, start:end],
            output.boxes_xyxy[:, start:end],
            output.centerness[:, start:end],
            output.anchors_xyxy[start:end],
            [size],
        )
        start = end


def _rank_keys(labels: Tensor, centerness: Tensor, candidate_score: float) -> Tensor:
    """[B, S, T]: score x centerness of each token's label, less 1 where the label is no candidate or there is none.

    Candidates come first, and the others are ordered too.
    """
    return labels * centerness.sigmoid()[:, :, None] - (labels <= candidate_score).to(labels.dtype)


def _label_means(level: GlipOutput, same: Tensor) -> Tensor:
    """[B, S, T]: mean token score of each token's label."""
    return level.token_logits.sigmoid() @ (same / same.sum(1, keepdim=True).clamp(min=1))


def _score_of(keys: Tensor) -> Tensor:
    """The product in a rank key."""
    return (keys + (keys < 0).to(keys.dtype)).clamp(min=torch.finfo(keys.dtype).tiny)


def _select(keys: Tensor, first: Tensor, config: GlipConfig) -> tuple[Tensor, Tensor]:
    """One level's scores before the square root [B, K, T], at a label's first token, and their positions [B, K].

    The K best positions contain the K best pairs; the pairs beyond K are dropped.
    """
    best = keys.amax(2)
    rows = best.topk(_at_most(config.candidates_per_level, best), dim=1).indices  # [B, K]
    chosen = keys.gather(1, rows[:, :, None].expand(-1, -1, keys.shape[2]))  # [B, K, T]
    last = _last_kept(chosen, first, config)[:, :, None]
    return chosen.masked_fill((chosen < last) | ~first[:, None], 0.0).clamp(min=0), rows


def _last_kept(chosen: Tensor, first: Tensor, config: GlipConfig) -> Tensor:
    """[B, 1]: rank key of the last pair that is kept. A label counts once, by its first token."""
    pairs = chosen.masked_fill(~first[:, None], -1.0).flatten(1)
    return pairs.topk(_at_most(config.candidates_per_level, pairs), dim=1).values[:, -1:]


def _at_most(limit: int, values: Tensor) -> int:
    """min(limit, values.shape[1]), which a tracer does not record as a constant."""
    return torch.arange(limit)[: values.shape[1]].shape[0]


def _same_label(token_label: Tensor) -> Tensor:
    """[B, T, T] float: 1 where two tokens belong to one label."""
    return ((token_label[:, :, None] == token_label[:, None]) & (token_label[:, :, None] != NO_LABEL)).float()


def _first_of_label(token_label: Tensor) -> Tensor:
    """[B, T] bool: True at the first token of each label; a label's tokens are contiguous."""
    begins = torch.ones_like(token_label[:, :1], dtype=torch.bool)
    changes = torch.cat((begins, token_label[:, 1:] != token_label[:, :-1]), 1)
    return changes & (token_label != NO_LABEL)


def to_unit(boxes_xyxy: Tensor, pixel_mask: Tensor) -> Tensor:
    """Convert boxes [B, N, 4] x0, y0, x1, y1 in pixels to cx, cy, w, h in 0..1 of the unpadded image, clipped to it."""
    width = pixel_mask[:, 0, :].float().sum(1)
    height = pixel_mask[:, :, 0].float().sum(1)
    boxes = (boxes_xyxy / torch.stack((width, height, width, height), 1)[:, None]).clamp(0, 1)
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat(((low + high) / 2, high - low), -1)
