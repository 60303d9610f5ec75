"""The whole loss of a text-prompted detector: every decoder layer, selected proposals, denoising, all proposals."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from models.losses.box_losses import box_losses, pairwise_giou, to_xyxy
from models.losses.matcher import MatchCost, hungarian
from models.losses.token_focal_loss import focal_terms, token_focal_loss, wide


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


class DenoisingTargets(Protocol):
    """What the denoising queries of one picture are taught: see `models.training.denoising.NoisedObjects`."""

    @property
    def objects(self) -> Tensor: ...
    @property
    def found(self) -> Tensor: ...
    @property
    def groups(self) -> int: ...


class Denoised(NamedTuple):
    """What became of denoising queries: logits [L, B, Q, T], boxes [L, B, Q, 4], and what they are taught."""

    logits: Tensor
    boxes: Tensor
    targets: Sequence[DenoisingTargets]


@dataclass(frozen=True)
class DetectorLossConfig:
    """Weights (Liu et al. 2023: label 1, L1 5, GIoU 2 in the loss; matching weighs the label 2).

    `selected` weighs the loss on the proposals that became queries (DINO's interm_loss_coef), `denoising` that on
    denoising queries. `dense` is ours, and off: the loss on all proposals, where each object teaches its
    `dense_matches` best positions, which speeds up short runs of small models.
    """

    label: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    selected: float = 1.0
    denoising: float = 1.0
    dense: float = 0.0
    dense_matches: int = 4
    cost: MatchCost = field(default_factory=MatchCost)


Parts = tuple[Tensor, Tensor, Tensor]


def detector_loss(
    output: DetectorOutput,
    targets: list[Targets],
    config: DetectorLossConfig = DetectorLossConfig(),
    *,
    denoising: Denoised | None = None,
    objects: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum, and the three parts of the last decoder layer and of every other kind of query.

    Sums are divided by `objects`, their number in the batch (at least 1) unless a larger batch is told of, of which
    this is a part; for all proposals, by that of taught positions.
    """
    objects = float(max(1, sum(len(target.boxes) for target in targets))) if objects is None else objects
    cost = config.cost
    layers = [
        one_to_one(wide(logits), wide(boxes), targets, cost)
        for logits, boxes in zip(output.decoder_logits, output.decoder_boxes, strict=True)
    ]
    total = torch.stack([_weighted(parts, objects, config) for parts in layers]).sum()
    figures = _figures("decoder", layers[-1], objects)
    if config.selected:
        parts = one_to_one(*_selected(output), targets, cost)
        total = total + config.selected * _weighted(parts, objects, config)
        figures |= _figures("selected", parts, objects)
    if denoising is not None:
        layers = [
            denoised(wide(logits), wide(boxes), targets, denoising.targets)
            for logits, boxes in zip(denoising.logits, denoising.boxes, strict=True)
        ]
        total = total + config.denoising * torch.stack([_weighted(parts, objects, config) for parts in layers]).sum()
        figures |= _figures("denoising", layers[-1], objects)
    if config.dense:
        parts = one_to_many(output, targets, config)
        taught = objects * config.dense_matches
        total = total + config.dense * _weighted(parts, taught, config)
        figures |= _figures("dense", parts, taught)
    return total, figures


def denoised(logits: Tensor, boxes: Tensor, targets: list[Targets], denoising: Sequence[DenoisingTargets]) -> Parts:
    """Sums of focal, L1 and GIoU loss of denoising queries [B, Q, T], [B, Q, 4], each with the object it is made of.

    Each picture's sum is per group, so that a picture with few objects, which has many groups, counts no more.
    """
    label = boxes.sum() * 0 + logits.masked_fill(logits.isneginf(), 0).sum() * 0
    l1 = giou = boxes.sum() * 0
    for row, (target, one) in enumerate(zip(targets, denoising, strict=True)):
        if not one.groups:
            continue
        count, found = len(one.objects), one.found
        wanted = target.positive[one.objects] & found[:, None]
        label = label + token_focal_loss(logits[row, :count], wanted) / one.groups
        sums = box_losses(boxes[row, :count][found], target.boxes[one.objects[found]])
        l1, giou = l1 + sums[0] / one.groups, giou + sums[1] / one.groups
    return label, l1, giou


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
    logits, boxes = wide(output.proposal_logits), wide(output.proposal_boxes)
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
    logits = output.proposal_logits.gather(1, rows.expand(-1, -1, tokens))
    return wide(logits), wide(output.proposal_boxes.gather(1, rows.expand(-1, -1, 4)))


def _weighted(parts: Parts, count: float, config: DetectorLossConfig) -> Tensor:
    label, l1, giou = parts
    return (config.label * label + config.l1 * l1 + config.giou * giou) / count


def _figures(name: str, parts: Parts, count: float) -> dict[str, float]:
    return {
        f"{name}_{part}": float(value.detach()) / count
        for part, value in zip(("label", "l1", "giou"), parts, strict=True)
    }
