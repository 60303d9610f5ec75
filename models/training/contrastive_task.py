"""Training a CLIP: each picture against all texts of the step (Radford et al. 2021, figure 3).

The texts are the captions of all pictures, and if pictures show classes, a name of every class.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from models.clip.model import Clip, unit_length
from models.data.collate import ImageTextBatch
from models.losses.contrastive import info_nce, top1
from models.losses.token_focal_loss import wide
from models.training.dataset_task import DatasetTask, TaskData
from models.training.distributed import ALONE, ProcessGroup
from models.training.loop import StepContext

MAX_LOGIT_SCALE = math.log(100.0)  # Radford et al. 2021, section 2.5
SCALES = np.geomspace(1.0, 100.0, 200)  # tried in calibration
KEYS = 1 << 32  # captions of a batch have keys of their own, below those of the batches before


class ClassTexts(Protocol):
    """Texts for the classes that pictures show."""

    labels: Tensor  # ids [N, T]

    def embeddings(self, rng: random.Random) -> Tensor | None:
        """Choose a unit-length embedding of each class [N, D], if they are known before training."""

    def input_ids(self, rng: random.Random) -> Tensor:
        """Choose a text for each class, as ids [N, T]."""


class Towers(nn.Module):
    """Both towers: a batch -> unit-length embeddings of pictures and texts, float32, and the scale of their cosines."""

    def __init__(self, model: Clip) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: ImageTextBatch) -> tuple[Tensor, Tensor, Tensor]:
        images = unit_length(wide(self.model.encode_image(batch.pixels)))
        texts = images.new_zeros(0, images.shape[1])
        if len(batch.input_ids):
            texts = unit_length(wide(self.model.encode_text(batch.input_ids)))
        return images, texts, self.model.logit_scale.exp()


class ContrastiveTask(DatasetTask[ImageTextBatch]):
    """CLIP's loss over all pictures and texts of a step, however many batches and processes they come from.

    Of several batches, the embeddings are computed without gradients first; then each batch again, with the gradient
    that the loss of all has at its embeddings (Gao et al. 2021, "GradCache"). A tower with batch norms sees the
    statistics of each batch alone, and of each process. The names of classes are drawn anew at every step, the same in
    all processes, and encoded a share in each batch.
    """

    def __init__(
        self,
        model: Clip,
        data: TaskData[ImageTextBatch],
        group: ProcessGroup = ALONE,
        frozen: Sequence[nn.Module] = (),
        *,
        classes: ClassTexts | None = None,
        smoothing: float = 0.0,
        calibrate: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(model, Towers(model), data, group, frozen)
        self._clip, self._classes, self._seed = model, classes, seed
        self._smoothing, self._calibrate = smoothing, calibrate

    def learn(self, step: StepContext) -> dict[str, float]:
        with torch.no_grad():
            self._clip.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        batches, known = self._with_classes(self.batches(step.accumulate), step)
        if len(batches) == 1:
            with step.autocast():
                images, texts, scale = self._parallel(batches[0])
            loss, figures = self._contrast(images, texts, scale, batches, known)
            step.backward(loss * step.group.size)  # gradients of processes are averaged
            return figures
        return self._learn_in_parts(batches, known, step)

    def _with_classes(
        self, batches: list[ImageTextBatch], step: StepContext
    ) -> tuple[list[ImageTextBatch], Tensor | None]:
        """Give captions keys of their own in the step, and add each batch's share of the names of classes.

        Returns the classes' embeddings instead, if they are known.
        """
        first, count = step.group.rank * len(batches), step.group.size * len(batches)
        batches = [_renumbered(batch, first + place) for place, batch in enumerate(batches)]
        if self._classes is None:
            return batches, None
        rng = random.Random(f"{self._seed} {step.number}")
        known = self._classes.embeddings(rng)
        if known is not None:
            return batches, known.to(step.group.device)
        ids = self._classes.input_ids(rng).to(step.group.device)
        keys = torch.arange(len(ids), device=ids.device)
        shares = [slice(first + place, None, count) for place in range(len(batches))]
        return [_with_texts(batch, ids[share], keys[share]) for batch, share in zip(batches, shares, strict=True)], None

    def _learn_in_parts(
        self, batches: list[ImageTextBatch], known: Tensor | None, step: StepContext
    ) -> dict[str, float]:
        with torch.no_grad(), step.autocast():
            found = [self.module(batch) for batch in batches]
        images, texts = (torch.cat([one[side] for one in found]).requires_grad_() for side in (0, 1))
        scale = found[0][2].detach().clone().requires_grad_()
        loss, figures = self._contrast(images, texts, scale, batches, known)
        gradients = torch.autograd.grad(loss, (images, texts, scale))
        at_images = gradients[0].split([len(batch.pixels) for batch in batches])
        at_texts = gradients[1].split([len(batch.input_ids) for batch in batches])
        for number, batch in enumerate(batches):
            with self.synchronised(last=number == len(batches) - 1):
                with step.autocast():
                    images, texts, scale = self._parallel(batch)
                slope = (images * at_images[number]).sum() + (texts * at_texts[number]).sum()
                slope = slope + scale * gradients[2] / len(batches)
                step.backward(slope * step.group.size)
        return figures

    def _contrast(
        self, images: Tensor, texts: Tensor, scale: Tensor, batches: list[ImageTextBatch], known: Tensor | None
    ) -> tuple[Tensor, dict[str, float]]:
        picture_keys = torch.cat([batch.picture_keys for batch in batches])
        text_keys = torch.cat([batch.text_keys for batch in batches])
        keys, smoothing = (picture_keys, text_keys), self._smoothing
        return contrast(images, texts, scale, self._group, keys=keys, known=known, smoothing=smoothing)

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss of all held-out captions, and top-1 of a picture's text among all and the reverse; top-1 and top-5 of
        classes, by their labels.
        """
        figures: dict[str, float] = {}
        cosines, own, classes, labels = self._held_out_cosines(model)
        if len(own):
            logits = model.logit_scale.exp() * cosines  # type: ignore[operator]
            figures["validation_loss"] = float(info_nce(logits, own))
            figures["validation_image_to_text"] = top1(logits, own)
            figures["validation_text_to_image"] = top1(logits.T, torch.arange(len(own), device=own.device))
        if len(labels):
            best = classes.topk(min(5, classes.shape[1])).indices
            figures["validation_top1"] = top1(classes, labels)
            figures["validation_top5"] = float((best == labels[:, None]).any(1).float().mean())
        return figures

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Bound `logit_scale`, or calibrate it to held-out pictures; label smoothing leaves it too low."""
        assert isinstance(model, Clip)
        figures = super().finish(model)
        model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        if self._calibrate:
            cosines, own, classes, labels = self._held_out_cosines(model)
            wanted = (classes, labels) if len(labels) else (cosines, own)
            if len(wanted[1]):
                model.logit_scale.fill_(math.log(best_logit_scale(*wanted)))
        return {**figures, "logit_scale": float(model.logit_scale.exp())}

    def _held_out_cosines(self, model: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Cosines and targets: of pictures and captions [C, C], [C], and of pictures with classes [B, N], [B]."""
        assert isinstance(model, Clip)
        device = self._group.device
        found = [(Towers(model)(batch), batch.picture_keys) for batch in self.held_out()]
        if not found:
            none = torch.zeros(0, 0, device=device), torch.zeros(0, dtype=torch.long, device=device)
            return (*none, *none)
        images, texts = (torch.cat([one[side] for one, _ in found]) for side in (0, 1))
        keys = torch.cat([own for _, own in found])
        captioned = images[keys < 0] @ texts.T
        classes = images[keys >= 0]
        if self._classes is not None:
            classes = classes @ unit_length(model.encode_text(self._classes.labels.to(device))).T
        return captioned, torch.arange(len(captioned), device=device), classes, keys[keys >= 0]


def contrast(
    images: Tensor,
    texts: Tensor,
    scale: Tensor,
    group: ProcessGroup,
    *,
    keys: tuple[Tensor, Tensor] | None = None,
    known: Tensor | None = None,
    smoothing: float = 0.0,
) -> tuple[Tensor, dict[str, float]]:
    """Compute the loss of the pictures and texts of all processes; figures add up over processes.

    images [B, D], texts [N, D], of unit length; keys: those of the pictures' own texts [B] and of the texts [N], by
    default text i is of picture i. `known` [K, D]: embeddings of classes with keys 0..K-1, the same in all processes.
    Every process computes the whole loss, with the gradient of its own share: added up, the gradients at embeddings are
    whole, and those at the scale would come once too often for each further process, so that each takes its part.
    """
    share = scale / group.size + scale.detach() * (1 - 1 / group.size)
    everything = []
    for own in (images, texts):
        rows = group.gather(own)
        rows[group.rank] = own
        everything.append(torch.cat(rows))
    targets = torch.arange(len(everything[0]), device=images.device)
    if keys is not None:
        picture_keys, text_keys = (torch.cat(group.gather(own)) for own in keys)
        if known is not None:
            everything[1] = torch.cat([everything[1], known])
            text_keys = torch.cat([text_keys, torch.arange(len(known), device=known.device)])
        targets = (picture_keys[:, None] == text_keys).int().argmax(1)
    logits = share * everything[0] @ everything[1].T
    loss = info_nce(logits, targets, smoothing=smoothing)
    figures = {"loss": float(loss.detach()), "top1": top1(logits.detach(), targets), "scale": float(scale.detach())}
    return loss, {name: value / group.size for name, value in figures.items()}


def best_logit_scale(cosines: Tensor, targets: Tensor) -> float:
    """Find the factor on cosines [B, N] whose softmax gives the targets [B] the highest likelihood."""
    losses = [float(functional.cross_entropy(cosines * scale, targets)) for scale in SCALES]
    return float(SCALES[int(np.argmin(losses))])


def _renumbered(batch: ImageTextBatch, number: int) -> ImageTextBatch:
    own = batch.picture_keys
    return replace(
        batch,
        text_keys=batch.text_keys - number * KEYS,
        picture_keys=torch.where(own < 0, own - number * KEYS, own),
    )


def _with_texts(batch: ImageTextBatch, ids: Tensor, keys: Tensor) -> ImageTextBatch:
    rows = pad_sequence([*batch.input_ids, *ids], batch_first=True) if len(batch.input_ids) else ids
    return replace(batch, input_ids=rows, text_keys=torch.cat([batch.text_keys, keys]))
