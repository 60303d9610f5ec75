"""Adaptive training sample selection (Zhang et al. 2020, algorithm 1), as in GLIP: assigns objects to anchors.

Boxes are x0, y0, x1, y1 in pixels, ends included. Like GLIP's, the IoU counts both ends (width is
x1 - x0 + 1; `structures/boxlist_ops.py`), while centres, the inside test and centerness do not
(`modeling/rpn/loss.py`).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

CANDIDATES_PER_LEVEL = 9  # ATSS.TOPK in GLIP's config/defaults.py; section 3.2 of the paper
INSIDE_MARGIN = 0.01  # pixels; `prepare_targets` in modeling/rpn/loss.py


@torch.no_grad()
def assign_anchors(
    anchors_xyxy: Tensor,
    level_sizes: Sequence[int],
    boxes_xyxy: Tensor,
    *,
    candidates_per_level: int = CANDIDATES_PER_LEVEL,
) -> Tensor:
    """Index of each anchor's object, or -1: [S] int64.

    anchors_xyxy [S, 4], level after level; level_sizes, numbers of anchors, sum to S; boxes_xyxy [M, 4]. With
    several anchors per position, multiply `candidates_per_level` by their number, as GLIP does.
    """
    if not len(boxes_xyxy):
        return torch.full((len(anchors_xyxy),), -1, dtype=torch.long, device=anchors_xyxy.device)
    centres = _centres(anchors_xyxy)
    candidates = _nearest(centres, level_sizes, _centres(boxes_xyxy), candidates_per_level)  # [M, K]
    iou = _inclusive_iou(anchors_xyxy[candidates], boxes_xyxy[:, None])
    inside = _sides(centres[candidates], boxes_xyxy[:, None]).amin(-1) > INSIDE_MARGIN
    claims = inside & (iou >= _threshold(iou))
    best = iou.new_full((len(boxes_xyxy), len(anchors_xyxy)), -torch.inf)
    best.scatter_(1, candidates, iou.masked_fill(~claims, -torch.inf))
    value, objects = best.max(0)
    return objects.masked_fill(value.isneginf(), -1)


def centerness(anchors_xyxy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Centerness of each anchor's centre [P, 4] in its box [P, 4]: [P] in 0..1, 0 where it lies outside.

    Root of the product of the ratios of nearer to farther side (Tian et al. 2019, equation 3).
    """
    left, top, right, bottom = _sides(_centres(anchors_xyxy), boxes_xyxy).unbind(-1)
    return (_ratio(left, right) * _ratio(top, bottom)).sqrt()


def _nearest(centres: Tensor, level_sizes: Sequence[int], objects: Tensor, count: int) -> Tensor:
    """Indices [M, K] of the `count` centres [S, 2] of each level nearest to each object's [M, 2], or of all if fewer.

    Ties are broken by torch's topk, as in GLIP.
    """
    # Not cdist: its matrix product loses small differences between neighbours.
    distances = (objects[:, None] - centres[None]).square().sum(-1)  # [M, S]
    chosen, start = [], 0
    for level in distances.split(list(level_sizes), dim=1):
        size = level.shape[1]
        chosen.append(level.topk(min(count, size), dim=1, largest=False).indices + start)
        start += size
    return torch.cat(chosen, dim=1)


def _threshold(iou: Tensor) -> Tensor:
    """Mean plus unbiased standard deviation of the IoUs [M, K] of each object's candidates: [M, 1]."""
    # A single candidate has no unbiased deviation; 0 accepts it, where GLIP's NaN would leave the object unassigned.
    correction = min(1, iou.shape[1] - 1)
    return iou.mean(1, keepdim=True) + iou.std(1, correction=correction, keepdim=True)


def _inclusive_iou(a: Tensor, b: Tensor) -> Tensor:
    """Pairwise IoU [...] of boxes [..., 4], ends included."""
    inner = _inclusive_area(torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:]))
    return inner / (_inclusive_area(a[..., :2], a[..., 2:]) + _inclusive_area(b[..., :2], b[..., 2:]) - inner)


def _inclusive_area(low: Tensor, high: Tensor) -> Tensor:
    return (high - low + 1).clamp(min=0).prod(-1)


def _centres(boxes: Tensor) -> Tensor:
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def _sides(points: Tensor, boxes: Tensor) -> Tensor:
    """Distance [..., 4] of points [..., 2] to left, top, right and bottom of boxes [..., 4]; negative outside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], dim=-1)


def _ratio(one: Tensor, other: Tensor) -> Tensor:
    """Smaller over larger, 0 where either is not positive."""
    larger = torch.maximum(one, other).clamp(min=torch.finfo(one.dtype).tiny)
    return torch.minimum(one, other).clamp(min=0) / larger
