"""Training a CLIP on pictures with captions: each against all others of the step (Radford et al. 2021, figure 3)."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.clip.model import Clip, unit_length
from models.data.collate import Pairs
from models.losses.contrastive import info_nce, top1
from models.losses.token_focal_loss import wide
from models.training.dataset_task import Data, SetTask
from models.training.distributed import Processes
from models.training.loop import StepContext

LARGEST_SCALE = math.log(100.0)  # Radford et al. 2021, section 2.5


class Towers(nn.Module):
    """`Pairs` -> unit-length embeddings of pictures and texts, both [B, D] float32, and the scale of their cosines."""

    def __init__(self, model: Clip) -> None:
        super().__init__()
        self.model = model

    def forward(self, pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
        images, texts = self.model.encode_image(pairs.pixels), self.model.encode_text(pairs.input_ids)
        return unit_length(wide(images)), unit_length(wide(texts)), self.model.logit_scale.exp()


class ContrastiveTask(SetTask[Pairs]):
    """CLIP's loss over all pairs of a step, however many batches and processes they come from.

    Of several batches, the embeddings are computed without gradients first; then each batch again, with the gradient
    that the loss of all has at its embeddings (Gao et al. 2021, "GradCache"). A tower with batch norms sees the
    statistics of each batch alone, and of each process.
    """

    def __init__(self, model: Clip, data: Data[Pairs], processes: Processes, frozen: Sequence[nn.Module] = ()) -> None:
        super().__init__(model, Towers(model), data, processes, frozen)
        self._clip = model

    def learn(self, turn: StepContext) -> dict[str, float]:
        with torch.no_grad():
            self._clip.logit_scale.clamp_(max=LARGEST_SCALE)
        parts = self.batches(turn.accumulate)
        if len(parts) == 1:
            with turn.autocast():
                images, texts, scale = self._shared(parts[0])
            loss, figures = contrast(images, texts, scale, turn.processes)
            turn.backward(loss * turn.processes.count)  # processes' gradients are averaged
            return figures
        return self._learn_in_parts(parts, turn)

    def _learn_in_parts(self, parts: Sequence[Pairs], turn: StepContext) -> dict[str, float]:
        with torch.no_grad(), turn.autocast():
            found = [self.module(part) for part in parts]
        images, texts = (torch.cat([one[side] for one in found]).requires_grad_() for side in (0, 1))
        scale = found[0][2].detach().clone().requires_grad_()
        loss, figures = contrast(images, texts, scale, turn.processes)
        gradients = torch.autograd.grad(loss, (images, texts, scale))
        sizes = [len(part.pixels) for part in parts]
        shares = zip(gradients[0].split(sizes), gradients[1].split(sizes), strict=True)
        for number, (part, (at_images, at_texts)) in enumerate(zip(parts, shares, strict=True), 1):
            with self.alone(last=number == len(parts)):
                with turn.autocast():
                    images, texts, scale = self._shared(part)
                slope = (images * at_images).sum() + (texts * at_texts).sum() + scale * gradients[2] / len(parts)
                turn.backward(slope * turn.processes.count)
        return figures

    def validate(self, model: nn.Module) -> dict[str, float]:
        """The loss over all held-out pairs, and how often the nearest text is a picture's own, and the reverse."""
        found = [Towers(model)(part) for part in self.held_out() if isinstance(model, Clip)]
        if not found:
            return {}
        images, texts = (torch.cat([one[side] for one in found]) for side in (0, 1))
        logits, own = found[0][2] * images @ texts.T, torch.arange(len(images), device=images.device)
        return {
            "validation_loss": float(info_nce(logits, own)),
            "validation_image_to_text": top1(logits, own),
            "validation_text_to_image": top1(logits.T, own),
        }

    def finish(self, model: nn.Module) -> dict[str, float]:
        """Keep the last step within the bound as well."""
        assert isinstance(model, Clip)
        model.logit_scale.clamp_(max=LARGEST_SCALE)
        return {**super().finish(model), "logit_scale": float(model.logit_scale.exp())}


def contrast(images: Tensor, texts: Tensor, scale: Tensor, processes: Processes) -> tuple[Tensor, dict[str, float]]:
    """The loss of the pairs of all processes, with the gradient of this one's share; figures add up over processes.

    Every process computes the whole loss: added up, the gradients at embeddings are whole, and those at the scale
    would come once too often for each further process, so that each takes its part.
    """
    count = processes.count
    share = scale / count + scale.detach() * (1 - 1 / count)
    everything = []
    for own in (images, texts):
        rows = processes.gathered(own)
        rows[processes.rank] = own
        everything.append(torch.cat(rows))
    logits = share * everything[0] @ everything[1].T
    targets = torch.arange(len(logits), device=logits.device)
    loss = info_nce(logits, targets)
    figures = {"loss": float(loss.detach()), "top1": top1(logits.detach(), targets), "scale": float(scale.detach())}
    return loss, {name: value / count for name, value in figures.items()}
