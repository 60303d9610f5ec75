"""One-to-one assignment of predictions to targets (Carion et al. 2020, section 3.1)."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from models.losses.box_losses import pairwise_giou, to_xyxy
from models.losses.token_focal_loss import focal_terms


@dataclass(frozen=True)
class MatchCost:
    """Weights of the matching cost (Liu et al. 2023, appendix: class 2, L1 5, GIoU 2)."""

    label: float = 2.0
    l1: float = 5.0
    giou: float = 2.0


@torch.no_grad()
def hungarian(
    logits: Tensor, boxes: Tensor, positive: Tensor, target_boxes: Tensor, cost: MatchCost = MatchCost()
) -> tuple[Tensor, Tensor]:
    """Hungarian matching of one image's queries and objects.

    logits [N, T] (-inf where there is no token), boxes [N, 4] cxcywh, positive [M, T] bool, the tokens that name each
    object, target_boxes [M, 4] cxcywh. Returns matched queries and objects, both [min(N, M)] int64. The label cost is
    the focal cost averaged over an object's tokens.
    """
    if not len(target_boxes) or not len(boxes):
        none = torch.zeros(0, dtype=torch.long, device=boxes.device)
        return none, none
    as_positive, as_negative = focal_terms(logits)
    token_weights = positive.to(logits.dtype) / positive.sum(1, keepdim=True).clamp(min=1)
    label = (as_positive - as_negative) @ token_weights.T  # [N, M]
    l1 = torch.cdist(boxes, target_boxes, p=1)
    giou = pairwise_giou(to_xyxy(boxes), to_xyxy(target_boxes))[1]
    total = cost.label * label + cost.l1 * l1 - cost.giou * giou
    queries, objects = linear_sum_assignment(total.cpu().numpy())
    return (
        torch.as_tensor(queries.astype(np.int64), device=boxes.device),
        torch.as_tensor(objects.astype(np.int64), device=boxes.device),
    )
