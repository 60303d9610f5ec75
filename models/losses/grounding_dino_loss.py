"""Loss of Grounding DINO (Liu et al. 2023): decoder layers, selected proposals, denoising queries, all proposals."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from models.losses.box_losses import box_losses, pairwise_giou, to_xyxy
from models.losses.matcher import MatchCost, hungarian
from models.losses.token_focal_loss import focal_terms, token_focal_loss, wide


class DetectorOutput(Protocol):
    """Outputs of a query-based detector; boxes are cx, cy, w, h in 0..1, logits -inf on padded tokens.

    decoder_logits [L, B, N, T], decoder_boxes [L, B, N, 4]; at every position of the encoder proposal_logits [B, S, T],
    proposal_boxes [B, S, 4], proposal_valid [B, S] bool; topk_indices [B, N], positions selected as queries.
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
    """Objects of one image: boxes [M, 4] cxcywh in 0..1, and the tokens that name each [M, T] bool."""

    boxes: Tensor
    positive: Tensor


class DenoisingTargets(Protocol):
    """Targets of one image's denoising queries (`models.training.denoising.NoisedObjects`)."""

    @property
    def objects(self) -> Tensor: ...
    @property
    def found(self) -> Tensor: ...
    @property
    def groups(self) -> int: ...


class Denoised(NamedTuple):
    """Outputs of denoising queries, logits [L, B, Q, T] and boxes [L, B, Q, 4], and their targets."""

    logits: Tensor
    boxes: Tensor
    targets: Sequence[DenoisingTargets]


@dataclass(frozen=True)
class DetectorLossConfig:
    """Weights (Liu et al. 2023: label 1, L1 5, GIoU 2 in the loss; matching weighs the label 2).

    selected: loss of the selected proposals (DINO's interm_loss_coef); denoising: of the denoising queries. dense: loss
    of all proposals, each object matched to its `dense_matches` best positions, which speeds up short runs of small
    models; not in the paper, off by default.
    """

    label: float = 1.0
    l1: float = 5.0
    giou: float = 2.0
    selected: float = 1.0
    denoising: float = 1.0
    dense: float = 0.0
    dense_matches: int = 4
    cost: MatchCost = field(default_factory=MatchCost)


LossTerms = tuple[Tensor, Tensor, Tensor]  # label, L1, GIoU


def detector_loss(
    output: DetectorOutput,
    targets: list[Targets],
    config: DetectorLossConfig = DetectorLossConfig(),
    *,
    denoising: Denoised | None = None,
    objects: float | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Weighted sum; and the three terms of the last decoder layer and of every other kind of query.

    Sums are divided by `objects`: their number in the batch (at least 1), or in a larger batch that this is a part of.
    Those of all proposals are divided by the number of matched positions.
    """
    objects = float(max(1, sum(len(target.boxes) for target in targets))) if objects is None else objects
    cost = config.cost
    layers = [
        one_to_one(wide(logits), wide(boxes), targets, cost)
        for logits, boxes in zip(output.decoder_logits, output.decoder_boxes, strict=True)
    ]
    total = torch.stack([_weighted(terms, objects, config) for terms in layers]).sum()
    figures = _figures("decoder", layers[-1], objects)
    if config.selected:
        terms = one_to_one(*_selected(output), targets, cost)
        total = total + config.selected * _weighted(terms, objects, config)
        figures |= _figures("selected", terms, objects)
    if denoising is not None:
        layers = [
            denoised(wide(logits), wide(boxes), targets, denoising.targets)
            for logits, boxes in zip(denoising.logits, denoising.boxes, strict=True)
        ]
        total = total + config.denoising * torch.stack([_weighted(terms, objects, config) for terms in layers]).sum()
        figures |= _figures("denoising", layers[-1], objects)
    if config.dense:
        terms = one_to_many(output, targets, config)
        matched = objects * config.dense_matches
        total = total + config.dense * _weighted(terms, matched, config)
        figures |= _figures("dense", terms, matched)
    return total, figures


def denoised(logits: Tensor, boxes: Tensor, targets: list[Targets], denoising: Sequence[DenoisingTargets]) -> LossTerms:
    """Sums of focal, L1 and GIoU loss of denoising queries [B, Q, T], [B, Q, 4], each against its own object.

    Each image's sum is per group, so that an image with few objects, which has many groups, does not weigh more.
    """
    label = boxes.sum() * 0 + logits.masked_fill(logits.isneginf(), 0).sum() * 0
    l1 = giou = boxes.sum() * 0
    for row, (target, one) in enumerate(zip(targets, denoising, strict=True)):
        if not one.groups:
            continue
        count, found = len(one.objects), one.found
        positive = target.positive[one.objects] & found[:, None]
        label = label + token_focal_loss(logits[row, :count], positive) / one.groups
        sums = box_losses(boxes[row, :count][found], target.boxes[one.objects[found]])
        l1, giou = l1 + sums[0] / one.groups, giou + sums[1] / one.groups
    return label, l1, giou


def one_to_one(logits: Tensor, boxes: Tensor, targets: list[Targets], cost: MatchCost) -> LossTerms:
    """Sums of focal, L1 and GIoU loss of queries [B, N, T], [B, N, 4] under Hungarian matching."""
    positive = torch.zeros_like(logits, dtype=torch.bool)
    l1 = giou = boxes.sum() * 0  # keeps the gradient path to the boxes where no image has an object
    for row, target in enumerate(targets):
        queries, objects = hungarian(logits[row], boxes[row], target.positive, target.boxes, cost)
        positive[row, queries] = target.positive[objects]
        sums = box_losses(boxes[row, queries], target.boxes[objects])
        l1, giou = l1 + sums[0], giou + sums[1]
    return token_focal_loss(logits, positive), l1, giou


def one_to_many(output: DetectorOutput, targets: list[Targets], config: DetectorLossConfig) -> LossTerms:
    """Sums of focal, L1 and GIoU loss of all valid proposals, several of them matched to each object."""
    logits, boxes = wide(output.proposal_logits), wide(output.proposal_boxes)
    positive = torch.zeros_like(logits, dtype=torch.bool)
    l1 = giou = boxes.sum() * 0
    for row, target in enumerate(targets):
        positions, objects = best_positions(
            logits[row], boxes[row], output.proposal_valid[row], target, config.cost, config.dense_matches
        )
        # A position near two objects gets the tokens of both, and the box loss of each.
        positive[row].index_put_((positions,), target.positive[objects], accumulate=True)
        sums = box_losses(boxes[row, positions], target.boxes[objects])
        l1, giou = l1 + sums[0], giou + sums[1]
    return token_focal_loss(logits, positive, output.proposal_valid), l1, giou


@torch.no_grad()
def best_positions(
    logits: Tensor, boxes: Tensor, valid: Tensor, target: Targets, cost: MatchCost, count: int
) -> tuple[Tensor, Tensor]:
    """The `count` cheapest valid positions of each object of one image, as (positions, objects) [M * count]."""
    count = min(count, int(valid.sum()))
    as_positive, as_negative = focal_terms(logits)
    token_weights = target.positive.to(logits.dtype) / target.positive.sum(1, keepdim=True).clamp(min=1)
    total = cost.label * ((as_positive - as_negative) @ token_weights.T)  # [S, M]
    total = total + cost.l1 * torch.cdist(boxes, target.boxes, p=1)
    total = total - cost.giou * pairwise_giou(to_xyxy(boxes), to_xyxy(target.boxes))[1]
    total = total.masked_fill(~valid[:, None], torch.inf)
    positions = total.topk(count, dim=0, largest=False).indices  # [count, M]
    objects = torch.arange(len(target.boxes), device=boxes.device).expand_as(positions)
    return positions.flatten(), objects.flatten()


def _selected(output: DetectorOutput) -> tuple[Tensor, Tensor]:
    """Selected proposals, with their gradient: logits [B, N, T], boxes [B, N, 4]."""
    rows = output.topk_indices[:, :, None]
    tokens = output.proposal_logits.shape[-1]
    logits = output.proposal_logits.gather(1, rows.expand(-1, -1, tokens))
    return wide(logits), wide(output.proposal_boxes.gather(1, rows.expand(-1, -1, 4)))


def _weighted(terms: LossTerms, count: float, config: DetectorLossConfig) -> Tensor:
    label, l1, giou = terms
    return (config.label * label + config.l1 * l1 + config.giou * giou) / count


def _figures(name: str, terms: LossTerms, count: float) -> dict[str, float]:
    return {
        f"{name}_{term}": float(value.detach()) / count
        for term, value in zip(("label", "l1", "giou"), terms, strict=True)
    }
