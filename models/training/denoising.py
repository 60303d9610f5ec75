"""Contrastive denoising: queries from noised boxes and labels, trained to recover the objects.

DINO (Zhang et al. 2022, section 3.3; models/dino/dn_components.py `prepare_for_cdn`): each group has two queries for
every object, one trained to find the object and a further one trained to find nothing. Labels are texts here, so a
query's content is the mean of the features of its label's tokens, through a projection that only training uses. A
noised label is another one of the same prompt, as open reimplementations of Grounding DINO's training do it.

Unlike DINO, a picture has as many groups as its own objects allow, and places without an object are seen by no other
query and have no target: the targets of a picture do not depend on the others of its batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.grounding_dino.model import DenoisingQueries
from models.losses.box_losses import to_cxcywh, to_xyxy


@dataclass(frozen=True)
class DenoisingConfig:
    """`queries`: pairs of queries in a picture (DINO's dn_number), 0 for no denoising; `label_noise`: half of it is the
    share of labels exchanged (dn_label_noise_ratio); `box_noise`: the largest shift of a corner in half sides
    (dn_box_noise_scale), twice that for queries trained to find nothing.
    """

    queries: int = 100
    label_noise: float = 0.5
    box_noise: float = 1.0


@dataclass(frozen=True)
class NoisedObjects:
    """The denoising queries of one picture, Q = groups x 2 x M, group after group, in each the positive ones first.

    boxes [Q, 4] cxcywh in 0..1; labels [Q, T] bool, the tokens of the label a query starts with; objects [Q] int64, the
    object each is made of; group [Q] int64; found [Q] bool, whether the target is that object or nothing.
    """

    boxes: Tensor
    labels: Tensor
    objects: Tensor
    group: Tensor
    found: Tensor

    @property
    def groups(self) -> int:
        return int(self.group.max()) + 1 if len(self.group) else 0

    def to(self, device: torch.device) -> "NoisedObjects":
        """Copy the tensors to a device."""
        return NoisedObjects(
            self.boxes.to(device),
            self.labels.to(device),
            self.objects.to(device),
            self.group.to(device),
            self.found.to(device),
        )


def add_noise(
    boxes: Tensor, positive: Tensor, labels: Tensor, generator: torch.Generator, *, config: DenoisingConfig
) -> NoisedObjects:
    """Make denoising queries for objects with boxes [M, 4] cxcywh in 0..1 and tokens positive [M, T] bool.

    labels [K, T] bool: the tokens of every label of the prompt, one of which may replace an object's label.
    """
    count = len(boxes)
    groups = max(1, config.queries // count) if count and config.queries else 0
    objects = torch.arange(count).repeat(groups * 2)
    found = torch.tensor([True, False]).repeat_interleave(count).repeat(groups)
    exchanged = torch.rand(len(objects), generator=generator) < config.label_noise / 2
    other = torch.randint(max(1, len(labels)), (len(objects),), generator=generator)
    own = positive[objects]
    tokens = torch.where(exchanged[:, None], labels[other], own) if len(labels) else own
    return NoisedObjects(
        _noised_boxes(boxes[objects], found, config.box_noise, generator),
        tokens,
        objects,
        torch.arange(groups).repeat_interleave(2 * count),
        found,
    )


def _noised_boxes(boxes: Tensor, found: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Shift the corners of boxes by up to half a side, or by half a side to a whole one where not `found`."""
    half = boxes[:, 2:].repeat(1, 2) / 2
    amount = torch.rand(boxes.shape, generator=generator) + (~found).to(boxes.dtype)[:, None]
    sign = torch.randint(0, 2, boxes.shape, generator=generator).to(boxes.dtype) * 2 - 1
    corners = (to_xyxy(boxes) + amount * sign * half * scale).clamp(0, 1)
    # A corner may pass the other; DINO lets the box have a negative side, which the decoder cannot place.
    low, high = torch.minimum(corners[:, :2], corners[:, 2:]), torch.maximum(corners[:, :2], corners[:, 2:])
    return to_cxcywh(torch.cat([low, high], 1))


class LabelQueries(nn.Module):
    """Content of denoising queries: a projection that is trained, and not part of the model."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.zeros_(self.project.bias)

    def forward(self, text_features: Tensor, noised: Sequence[NoisedObjects]) -> DenoisingQueries:
        """Pad the queries of each picture to the longest; text_features [B, T, C] are those of `encode_text`."""
        batch, count = len(noised), max(len(one.objects) for one in noised)
        device = text_features.device
        labels = torch.zeros(batch, count, text_features.shape[1], device=device, dtype=text_features.dtype)
        boxes = torch.full((batch, count, 4), 0.5, device=device)
        group = torch.full((batch, count), -1, device=device)
        for row, one in enumerate(noised):
            size = len(one.objects)
            labels[row, :size, : one.labels.shape[1]] = one.labels.to(labels.dtype)
            boxes[row, :size], group[row, :size] = one.boxes, one.group
        mean = labels @ text_features / labels.sum(2, keepdim=True).clamp(min=1)
        own = torch.eye(count, dtype=torch.bool, device=device)
        visible = (group[:, :, None] == group[:, None, :]) & (group[:, None, :] >= 0) | own
        return DenoisingQueries(self.project(mean), boxes, visible)
