"""Box losses, IoU and box conversions. Boxes are cx, cy, w, h in 0..1 unless a name says xyxy."""

import torch
from torch import Tensor


def to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Convert [..., 4] from centre and size to x0, y0, x1, y1."""
    centre, half = boxes_cxcywh[..., :2], boxes_cxcywh[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1)


def to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Convert [..., 4] from x0, y0, x1, y1 to centre and size."""
    low, high = boxes_xyxy[..., :2], boxes_xyxy[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def pairwise_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and generalised IoU [N, M] of boxes [N, 4] and [M, 4] (Rezatofighi et al. 2019, algorithm 1).

    A pair without any area has IoU 0.
    """
    return _giou(a_xyxy[:, None], b_xyxy[None])


def matched_giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU [N] of boxes pair by pair, both [N, 4]."""
    return _giou(a_xyxy, b_xyxy)[1]


def box_losses(predicted: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over matched boxes [N, 4] of the L1 distance and of 1 - GIoU. Zero, with a gradient path, for N = 0."""
    l1 = (predicted - target).abs().sum()
    giou = (1 - matched_giou(to_xyxy(predicted), to_xyxy(target))).sum()
    return l1, giou


def _giou(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    inner = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    union = _area(a) + _area(b) - inner
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    tiny = torch.finfo(a.dtype).tiny
    iou = inner / union.clamp(min=tiny)
    return iou, iou - (hull - union) / hull.clamp(min=tiny)


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(-1)
