"""The whole loss of a dense text-prompted detector (GLIP, Li et al. 2022, section 3.1): words, boxes and centerness.

Sums are divided as in GLIP's `ATSSLossComputation` (maskrcnn_benchmark/modeling/rpn/loss.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from models.losses.atss import CANDIDATES_PER_LEVEL, assign, centerness
from models.losses.box_losses import matched_giou
from models.losses.token_focal_loss import token_focal_loss, wide

TINY = torch.finfo(torch.float32).tiny


class DenseOutput(Protocol):
    """What a dense detector hands to its loss; boxes are x0, y0, x1, y1 in pixels, ends included.

    token_logits [B, S, T] before the sigmoid, -inf on padded tokens; boxes_xyxy [B, S, 4] decoded; centerness [B, S]
    logits; anchors_xyxy [S, 4], the same for all pictures, level after level; level_sizes, the anchors of each level.
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
    """The objects of one picture: boxes_xyxy [M, 4] in pixels, and the tokens that name each, positive [M, T] bool."""

    boxes_xyxy: Tensor
    positive: Tensor


@dataclass(frozen=True)
class AlignmentLossConfig:
    """Weights and candidates of GLIP's config/defaults.py.

    DOT_PRODUCT_TOKEN_LOSS_WEIGHT 1, ATSS.REG_LOSS_WEIGHT 2, centerness unweighted, ATSS.TOPK 9.
    """

    alignment: float = 1.0
    box: float = 2.0
    centerness: float = 1.0
    candidates_per_level: int = CANDIDATES_PER_LEVEL


class Counts(NamedTuple):
    """What a batch's sums are divided by: its positive anchors, and their centerness, added up."""

    positives: float
    centerness: float


class Matches(NamedTuple):
    """What the anchors of a batch learn.

    wanted [B, S, T] bool, the tokens of each anchor; positive [B, S] bool, those with an object, P in all; and of these
    in order: boxes_xyxy [P, 4], and centerness [P] in 0..1.
    """

    wanted: Tensor
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
    """The weighted sum, and its unweighted parts with the number of positive anchors in the batch.

    The focal loss of all anchors and tokens and the cross-entropy of centerness are per positive anchor (at least 1);
    1 - GIoU is averaged over positive anchors with their centerness as weight. `counts` are those of a larger batch of
    which this is a part.
    """
    matches = match(output, targets, config)
    own = Counts(float(len(matches.boxes_xyxy)), float(matches.centerness.sum()))
    positives, weight = own if counts is None else counts
    centres = functional.binary_cross_entropy_with_logits(
        wide(output.centerness[matches.positive]), matches.centerness, reduction="sum"
    )
    parts = {
        "alignment": token_focal_loss(wide(output.token_logits), matches.wanted) / max(1.0, positives),
        "box": _box_loss(wide(output.boxes_xyxy[matches.positive]), matches) / max(TINY, weight),
        "centerness": centres / max(1.0, positives),
    }
    total = config.alignment * parts["alignment"] + config.box * parts["box"] + config.centerness * parts["centerness"]
    figures = {name: float(part.detach()) for name, part in parts.items()}
    return total, figures | {"positives": own.positives}


@torch.no_grad()
def counts_of(
    anchors_xyxy: Tensor, level_sizes: Sequence[int], targets: list[DenseTargets], config: AlignmentLossConfig
) -> Counts:
    """What a batch's sums are divided by, which its anchors and objects alone decide."""
    positives = weight = 0.0
    for target in targets:
        objects = assign(anchors_xyxy, level_sizes, target.boxes_xyxy, candidates_per_level=config.candidates_per_level)
        hit = objects >= 0
        positives += float(hit.sum())
        weight += float(centerness(anchors_xyxy[hit], target.boxes_xyxy[objects[hit]]).sum())
    return Counts(positives, weight)


@torch.no_grad()
def match(output: DenseOutput, targets: list[DenseTargets], config: AlignmentLossConfig) -> Matches:
    """What each anchor of a batch learns; one without an object learns that no token names it."""
    anchors = output.anchors_xyxy
    wanted = torch.zeros_like(output.token_logits, dtype=torch.bool)
    positive, boxes = [], []
    for tokens, target in zip(wanted, targets, strict=True):
        objects = assign(
            anchors, output.level_sizes, target.boxes_xyxy, candidates_per_level=config.candidates_per_level
        )
        hit = objects >= 0
        tokens[hit] = target.positive[objects[hit]]
        positive.append(hit)
        boxes.append(target.boxes_xyxy[objects[hit]])
    hits, wanted_boxes = torch.stack(positive), torch.cat(boxes)
    return Matches(wanted, hits, wanted_boxes, centerness(anchors.expand(len(hits), -1, -1)[hits], wanted_boxes))


def _box_loss(predicted_xyxy: Tensor, matches: Matches) -> Tensor:
    """Sum of 1 - GIoU of [P, 4], each weighted with its centerness; 0, with a gradient path, for P = 0."""
    # Without + 1 here, unlike the assignment's IoU: `GIoULoss` in GLIP's modeling/rpn/loss.py.
    return ((1 - matched_giou(predicted_xyxy, matches.boxes_xyxy)) * matches.centerness).sum()
