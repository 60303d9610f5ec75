"""Loss of GLIP (Li et al. 2022, section 3.1): token alignment, boxes and centerness of dense outputs.

Sums are normalised as in GLIP's `ATSSLossComputation` (maskrcnn_benchmark/modeling/rpn/loss.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from models.losses.atss import CANDIDATES_PER_LEVEL, assign_anchors, centerness
from models.losses.box_losses import matched_giou
from models.losses.token_focal_loss import token_focal_loss, wide

TINY = torch.finfo(torch.float32).tiny


class DenseOutput(Protocol):
    """Outputs of a dense detector; boxes are x0, y0, x1, y1 in pixels, ends included.

    token_logits [B, S, T] before the sigmoid, -inf on padded tokens; boxes_xyxy [B, S, 4] decoded; centerness [B, S]
    logits; anchors_xyxy [S, 4], the same for all images, level after level; level_sizes, the anchors of each level.
    """

    @property
    def token_logits(self) -> Tensor: ...
    @property
    def boxes_xyxy(self) -> Tensor: ...
    @property
    def centerness(self) -> Tensor: ...
    @property
    def anchors_xyxy(self) -> Tensor: ...
    @property
    def level_sizes(self) -> Sequence[int]: ...


class DenseTargets(NamedTuple):
    """Objects of one image: boxes_xyxy [M, 4] in pixels, and the tokens that name each, positive [M, T] bool."""

    boxes_xyxy: Tensor
    positive: Tensor


@dataclass(frozen=True)
class AlignmentLossConfig:
    """Weights and candidates of GLIP's config/defaults.py:

    DOT_PRODUCT_TOKEN_LOSS_WEIGHT 1, ATSS.REG_LOSS_WEIGHT 2, centerness unweighted, ATSS.TOPK 9.
    """

    alignment: float = 1.0
    box: float = 2.0
    centerness: float = 1.0
    candidates_per_level: int = CANDIDATES_PER_LEVEL


class Counts(NamedTuple):
    """Normalisers of a batch's sums: number of positive anchors, and sum of their centerness."""

    positives: float
    centerness: float


class AnchorTargets(NamedTuple):
    """Targets of the anchors of a batch.

    tokens [B, S, T] bool, positive tokens of each anchor; positive [B, S] bool, anchors with an object, P in all; of
    these in order: boxes_xyxy [P, 4], and centerness [P] in 0..1.
    """

    tokens: Tensor
    positive: Tensor
    boxes_xyxy: Tensor
    centerness: Tensor


def alignment_loss(
    output: DenseOutput,
    targets: list[DenseTargets],
    config: AlignmentLossConfig = AlignmentLossConfig(),
    *,
    counts: Counts | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """Weighted sum; and its unweighted terms, with the number of positive anchors in the batch.

    The focal loss of all anchors and tokens and the cross-entropy of centerness are per positive anchor (at least 1);
    1 - GIoU is averaged over positive anchors with their centerness as weight. counts: of a larger batch that this is a
    part of.
    """
    matched = anchor_targets(output, targets, config)
    own = Counts(float(len(matched.boxes_xyxy)), float(matched.centerness.sum()))
    positives, weight = own if counts is None else counts
    centerness_loss = functional.binary_cross_entropy_with_logits(
        wide(output.centerness[matched.positive]), matched.centerness, reduction="sum"
    )
    terms = {
        "alignment": token_focal_loss(wide(output.token_logits), matched.tokens) / max(1.0, positives),
        "box": _box_loss(wide(output.boxes_xyxy[matched.positive]), matched) / max(TINY, weight),
        "centerness": centerness_loss / max(1.0, positives),
    }
    total = config.alignment * terms["alignment"] + config.box * terms["box"] + config.centerness * terms["centerness"]
    figures = {name: float(term.detach()) for name, term in terms.items()}
    return total, figures | {"positives": own.positives}


@torch.no_grad()
def counts_of(
    anchors_xyxy: Tensor, level_sizes: Sequence[int], targets: list[DenseTargets], config: AlignmentLossConfig
) -> Counts:
    """Normalisers of a batch's sums, which depend on its anchors and objects only."""
    positives = weight = 0.0
    for target in targets:
        objects = assign_anchors(
            anchors_xyxy, level_sizes, target.boxes_xyxy, candidates_per_level=config.candidates_per_level
        )
        hit = objects >= 0
        positives += float(hit.sum())
        weight += float(centerness(anchors_xyxy[hit], target.boxes_xyxy[objects[hit]]).sum())
    return Counts(positives, weight)


@torch.no_grad()
def anchor_targets(output: DenseOutput, targets: list[DenseTargets], config: AlignmentLossConfig) -> AnchorTargets:
    """Targets of each anchor of a batch; an anchor without an object has no positive token."""
    anchors = output.anchors_xyxy
    tokens = torch.zeros_like(output.token_logits, dtype=torch.bool)
    positive, boxes = [], []
    for row, target in zip(tokens, targets, strict=True):
        objects = assign_anchors(
            anchors, output.level_sizes, target.boxes_xyxy, candidates_per_level=config.candidates_per_level
        )
        hit = objects >= 0
        row[hit] = target.positive[objects[hit]]
        positive.append(hit)
        boxes.append(target.boxes_xyxy[objects[hit]])
    hits, target_boxes = torch.stack(positive), torch.cat(boxes)
    return AnchorTargets(tokens, hits, target_boxes, centerness(anchors.expand(len(hits), -1, -1)[hits], target_boxes))


def _box_loss(predicted_xyxy: Tensor, matched: AnchorTargets) -> Tensor:
    """Sum of 1 - GIoU of [P, 4], each weighted by its centerness; 0, with a gradient path, for P = 0."""
    # Without + 1, unlike the assignment's IoU: `GIoULoss` in GLIP's modeling/rpn/loss.py.
    return ((1 - matched_giou(predicted_xyxy, matched.boxes_xyxy)) * matched.centerness).sum()
