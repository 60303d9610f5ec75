"""How each family of detectors is taught and asked; what they share is in the tasks."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from models.glip.candidates import candidates
from models.glip.heads import grid_anchors
from models.glip.model import Glip, GlipOutput
from models.grounding_dino.model import DenoisedOutput, DenoisingQueries, GroundingDino, GroundingDinoOutput
from models.losses.box_losses import to_cxcywh
from models.losses.glip_loss import AlignmentLossConfig, Counts, DenseTargets, alignment_loss, counts_of
from models.losses.grounding_dino_loss import Denoised, DetectorLossConfig, Targets, detector_loss
from models.training.calibration import logit
from models.training.denoising import NoisedObjects
from server.contract.text import Prompt, pad_prompts

PROMPT = ("text_mask", "position_ids", "self_attention_mask")


@dataclass(frozen=True)
class Lesson:
    """A batch: pixels [B, 3, H, W], padded; mask [B, H, W] bool, True = picture; sizes (height, width) of each picture.

    text: the prompts as `server.contract.text.pad_prompts` gives them. For each picture the boxes x0, y0, x1, y1 [M, 4]
    in pixels of those objects that the prompt names, the tokens that name each [M, T] bool, and, for a detector that
    uses them, its denoising queries.
    """

    pixels: Tensor
    mask: Tensor
    sizes: Sequence[tuple[int, int]]
    text: dict[str, Tensor]
    boxes_xyxy: Sequence[Tensor]
    positive: Sequence[Tensor]
    noised: Sequence[NoisedObjects] = ()

    def to(self, device: torch.device) -> "Lesson":
        """The same on a device."""
        return replace(
            self,
            pixels=self.pixels.to(device, non_blocking=True),
            mask=self.mask.to(device, non_blocking=True),
            text={name: value.to(device, non_blocking=True) for name, value in self.text.items()},
            boxes_xyxy=[boxes.to(device) for boxes in self.boxes_xyxy],
            positive=[tokens.to(device) for tokens in self.positive],
            noised=[one.to(device) for one in self.noised],
        )


class Detector(Protocol):
    """A family of detectors, as training sees it."""

    @property
    def slow(self) -> tuple[str, ...]:
        """Modules, by the beginning of a parameter's name, that come trained and learn at the reduced rate."""

    def counts(self, model: nn.Module, lesson: Lesson) -> Tensor:
        """What the sums of the loss are divided by, [k] float64; those of the parts of a batch add up to its own."""

    def run(self, model: nn.Module, queries: nn.Module | None, lesson: Lesson) -> Any:
        """The model's output; `queries` makes denoising queries of what the lesson has of them."""

    def loss(self, output: Any, lesson: Lesson, counts: Tensor) -> tuple[Tensor, dict[str, float]]:
        """The loss of an output, and figures; with a whole batch's counts, those of its parts add up to its own."""

    def answer(
        self, model: nn.Module, pixels: Tensor, mask: Tensor, prompts: Sequence[Prompt]
    ) -> tuple[Tensor, Tensor]:
        """What the exported graph answers: token scores [B, N, T] in 0..1, boxes cx, cy, w, h [B, N, 4] in 0..1."""

    def shift(self, model: nn.Module, threshold: float, wanted: float) -> float:
        """Shift the token logits so that what scored `threshold` scores about `wanted`; returns the shift."""


@dataclass(frozen=True)
class GroundingDinoDetector:
    """Grounding DINO: matched queries."""

    config: DetectorLossConfig = field(default_factory=DetectorLossConfig)
    slow: tuple[str, ...] = ("backbone.",)

    def counts(self, model: nn.Module, lesson: Lesson) -> Tensor:
        return torch.tensor([float(sum(map(len, lesson.boxes_xyxy)))], dtype=torch.float64)

    def run(
        self, model: nn.Module, queries: nn.Module | None, lesson: Lesson
    ) -> tuple[GroundingDinoOutput, DenoisedOutput | None]:
        model, text = cast(GroundingDino, model), lesson.text
        features = model.encode_text(text["input_ids"], text["position_ids"], text["self_attention_mask"])
        mask, positions, attention = (text[name] for name in PROMPT)
        if queries is None or not any(one.groups for one in lesson.noised):
            return model(lesson.pixels, lesson.mask, features, mask, positions, attention), None
        noisy: DenoisingQueries = queries(features, lesson.noised)
        return model.denoise(lesson.pixels, lesson.mask, features, mask, positions, attention, noisy)

    def loss(self, output: Any, lesson: Lesson, counts: Tensor) -> tuple[Tensor, dict[str, float]]:
        found, denoised = output
        denoising = None if denoised is None else Denoised(denoised.logits, denoised.boxes_cxcywh, lesson.noised)
        targets = [
            Targets(relative(boxes, size), positive)
            for boxes, size, positive in zip(lesson.boxes_xyxy, lesson.sizes, lesson.positive, strict=True)
        ]
        return detector_loss(found, targets, self.config, denoising=denoising, objects=max(1.0, float(counts[0])))

    def answer(
        self, model: nn.Module, pixels: Tensor, mask: Tensor, prompts: Sequence[Prompt]
    ) -> tuple[Tensor, Tensor]:
        model, text = cast(GroundingDino, model), padded(prompts)
        features = model.encode_text(text["input_ids"], text["position_ids"], text["self_attention_mask"])
        output: GroundingDinoOutput = model(pixels, mask, features, *(text[name] for name in PROMPT))
        return output.logits.sigmoid(), output.boxes_cxcywh

    def shift(self, model: nn.Module, threshold: float, wanted: float) -> float:
        bias = cast(GroundingDino, model).token_logits.bias
        return 0.0 if bias is None else _shift(bias, logit(wanted) - logit(threshold))


@dataclass(frozen=True)
class GlipDetector:
    """GLIP: assigned anchors."""

    config: AlignmentLossConfig = field(default_factory=AlignmentLossConfig)
    slow: tuple[str, ...] = ("backbone.", "text_backbone.")

    def counts(self, model: nn.Module, lesson: Lesson) -> Tensor:
        glip = cast(Glip, model)
        height, width = lesson.pixels.shape[2:]
        shapes = [(-(-height // stride), -(-width // stride)) for stride in glip.config.strides]
        anchors = [
            grid_anchors(glip.cell_anchors[level], *shape, stride)
            for level, (shape, stride) in enumerate(zip(shapes, glip.config.strides, strict=True))
        ]
        sizes = [len(part) for part in anchors]
        return torch.tensor(counts_of(torch.cat(anchors), sizes, _targets(lesson), self.config), dtype=torch.float64)

    def run(self, model: nn.Module, queries: nn.Module | None, lesson: Lesson) -> GlipOutput:
        return self._run(cast(Glip, model), lesson.pixels, lesson.text)

    def loss(self, output: Any, lesson: Lesson, counts: Tensor) -> tuple[Tensor, dict[str, float]]:
        return alignment_loss(output, _targets(lesson), self.config, counts=Counts(*counts.tolist()))

    def answer(
        self, model: nn.Module, pixels: Tensor, mask: Tensor, prompts: Sequence[Prompt]
    ) -> tuple[Tensor, Tensor]:
        text, glip = padded(prompts), cast(Glip, model)
        return candidates(self._run(glip, pixels, text), text["token_label"], mask, glip.config)

    def shift(self, model: nn.Module, threshold: float, wanted: float) -> float:
        # A score is the root of a product, so its square moves like the token score.
        return _shift(cast(Glip, model).token_alignment.bias, logit(wanted**2) - logit(threshold**2))

    def _run(self, model: Glip, pixels: Tensor, text: dict[str, Tensor]) -> GlipOutput:
        features = model.encode_text(text["input_ids"], text["position_ids"], text["self_attention_mask"])
        output: GlipOutput = model(pixels, features, text["text_mask"])
        return output


class TrainableDetector(nn.Module):
    """A detector with what only its training has, as one module: `Lesson` -> the model's output."""

    def __init__(self, detector: Detector, model: nn.Module, queries: nn.Module | None) -> None:
        super().__init__()
        self.detector = detector
        self.model = model
        self.queries = queries

    def forward(self, lesson: Lesson) -> Any:
        return self.detector.run(self.model, self.queries, lesson)


def relative(boxes_xyxy: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes [M, 4] in pixels of a picture of (height, width) `size` as cx, cy, w, h in 0..1."""
    height, width = size
    return to_cxcywh(boxes_xyxy / torch.tensor([width, height, width, height], device=boxes_xyxy.device))


def padded(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Prompts as one batch of tensors, by the names of `server.contract.text.pad_prompts`."""
    arrays: dict[str, Any] = dict(pad_prompts(prompts, max(map(len, prompts))))
    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


def _targets(lesson: Lesson) -> list[DenseTargets]:
    return [DenseTargets(boxes, positive) for boxes, positive in zip(lesson.boxes_xyxy, lesson.positive, strict=True)]


def _shift(bias: Tensor, amount: float) -> float:
    with torch.no_grad():
        bias.add_(amount)
    return amount
