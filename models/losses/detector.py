"""The whole loss of a text-prompted detector: every decoder layer, selected proposals, all proposals."""

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from models.losses.boxes import box_losses, pairwise_giou, to_xyxy
from models.losses.grounding import focal_terms, token_focal_loss
from models.losses.matcher import MatchCost, hungarian


class DetectorOutput(Protocol):
    """What a detector hands to its loss; boxes are cx, cy, w, h in 0..1, logits -inf on padded tokens.

    decoder_logits [L, B, N, T], decoder_boxes [L, B, N, 4]; at every position of the encoder proposal_logits [B, S, T],
    proposal_boxes [B, S, 4], proposal_valid [B, S] bool; topk_indices [B, N], the positions that became queries.
    """

    @property
    def decoder_logits(self) -> Tensor: ...
    @property
    def decoder_boxes(self) -> Tensor: ...
    @property
    def proposal_logits(self) -> Tensor: ...
    @property
    def proposal_boxes(self) -> Tensor: ...
    @property
    def proposal_valid(self) -> Tensor: ...
    @property
    def topk_indices(self) -> Tensor: ...


class Targets(NamedTuple):
    """The objects of one picture: boxes [M, 4] cxcywh in 0..1, and the tokens that name each [M, T] bool."""

    boxes: Tensor
    positive: Tensor


@dataclass(frozen=True)
class DetectorLossConfig:
    """Weights (Liu et al. 2023: label 1, L1 5, GIoU 2 in the loss; matching weighs the label 2).

    `selected` weighs the loss on the proposals that became queries, `dense` the one on all proposals, where each object
    teaches its `dense_matches` best positions.
    """

    label: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    selected: float = 1.0
    dense: float = 1.0
    dense_matches: int = 4
    cost: MatchCost = field(default_factory=MatchCost)


Parts = tuple[Tensor, Tensor, Tensor]


def detector_loss(
    output: DetectorOutput, targets: list[Targets], config: DetectorLossConfig = DetectorLossConfig()
) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum, and the three parts of the last decoder layer, of the selected and of all proposals.

    Sums are divided by the number of objects in the batch (at least 1); for all proposals, by that of taught positions.
    """
    objects = max(1, sum(len(target.boxes) for target in targets))
    layers = [
        one_to_one(logits, boxes, targets, config.cost)
        for logits, boxes in zip(output.decoder_logits, output.decoder_boxes, strict=True)
    ]
    total = sum(
        (_weighted(parts, objects, config) for parts in layers), torch.zeros((), device=output.decoder_logits.device)
    )
    figures = _figures("decoder", layers[-1], objects)
    if config.selected:
        parts = one_to_one(*_selected(output), targets, config.cost)
        total = total + config.selected * _weighted(parts, objects, config)
        figures |= _figures("selected", parts, objects)
    if config.dense:
        parts = one_to_many(output, targets, config)
        taught = objects * config.dense_matches
        total = total + config.dense * _weighted(parts, taught, config)
        figures |= _figures("dense", parts, taught)
    return total, figures


def one_to_one(logits: Tensor, boxes: Tensor, targets: list[Targets], cost: MatchCost) -> Parts:
    """Sums of focal, L1 and GIoU loss of queries [B, N, T], [B, N, 4] under Hungarian matching."""
    wanted = torch.zeros_like(logits, dtype=torch.bool)
    l1 = giou = boxes.sum() * 0  # keeps the path to the boxes where no picture has an object
    for row, target in enumerate(targets):
        queries, objects = hungarian(logits[row], boxes[row], target.positive, target.boxes, cost)
        wanted[row, queries] = target.positive[objects]
        sums = box_losses(boxes[row, queries], target.boxes[objects])
        l1, giou = l1 + sums[0], giou + sums[1]
    return token_focal_loss(logits, wanted), l1, giou


def one_to_many(output: DetectorOutput, targets: list[Targets], config: DetectorLossConfig) -> Parts:
    """Sums of focal, L1 and GIoU loss of all valid proposals, of which each object teaches several."""
    logits, boxes = output.proposal_logits, output.proposal_boxes
    wanted = torch.zeros_like(logits, dtype=torch.bool)
    l1 = giou = boxes.sum() * 0
    for row, target in enumerate(targets):
        positions, objects = best_positions(
            logits[row], boxes[row], output.proposal_valid[row], target, config.cost, config.dense_matches
        )
        # A position near two objects is taught the words of both, and the box of each.
        wanted[row].index_put_((positions,), target.positive[objects], accumulate=True)
        sums = box_losses(boxes[row, positions], target.boxes[objects])
        l1, giou = l1 + sums[0], giou + sums[1]
    return token_focal_loss(logits, wanted, output.proposal_valid), l1, giou


@torch.no_grad()
def best_positions(
    logits: Tensor, boxes: Tensor, valid: Tensor, target: Targets, cost: MatchCost, count: int
) -> tuple[Tensor, Tensor]:
    """The `count` cheapest valid positions for each object of one picture, as (positions, objects) [M * count]."""
    count = min(count, int(valid.sum()))
    as_positive, as_negative = focal_terms(logits)
    share = target.positive.to(logits.dtype) / target.positive.sum(1, keepdim=True).clamp(min=1)
    total = cost.label * ((as_positive - as_negative) @ share.T)  # [S, M]
    total = total + cost.l1 * torch.cdist(boxes, target.boxes, p=1)
    total = total - cost.giou * pairwise_giou(to_xyxy(boxes), to_xyxy(target.boxes))[1]
    total = total.masked_fill(~valid[:, None], torch.inf)
    positions = total.topk(count, dim=0, largest=False).indices  # [count, M]
    objects = torch.arange(len(target.boxes), device=boxes.device).expand_as(positions)
    return positions.flatten(), objects.flatten()


def _selected(output: DetectorOutput) -> tuple[Tensor, Tensor]:
    """The proposals that became queries, with their gradient: logits [B, N, T], boxes [B, N, 4]."""
    rows = output.topk_indices[:, :, None]
    tokens = output.proposal_logits.shape[-1]
    return output.proposal_logits.gather(1, rows.expand(-1, -1, tokens)), output.proposal_boxes.gather(
        1, rows.expand(-1, -1, 4)
    )


def _weighted(parts: Parts, count: int, config: DetectorLossConfig) -> Tensor:
    label, l1, giou = parts
    return (config.label * label + config.l1 * l1 + config.giou * giou) / count


def _figures(name: str, parts: Parts, count: int) -> dict[str, float]:
    return {
        f"{name}_{part}": float(value.detach()) / count
        for part, value in zip(("label", "l1", "giou"), parts, strict=True)
    }
