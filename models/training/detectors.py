"""How each family of detectors is taught and asked; what they share is in `models.training.detection`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from models.glip.candidates import candidates
from models.glip.model import Glip, GlipOutput
from models.grounding_dino.model import GroundingDino, GroundingDinoOutput
from models.losses.alignment import AlignmentLossConfig, DenseTargets, alignment_loss
from models.losses.boxes import to_cxcywh
from models.losses.detector import DetectorLossConfig, Targets, detector_loss
from models.training.calibration import logit
from server.contract.text import Prompt, pad_prompts


@dataclass(frozen=True)
class Lesson:
    """A batch: pixels [B, 3, H, W], padded; mask [B, H, W] bool, True = picture, whose size is (height, width).

    For each picture its prompt, the boxes x0, y0, x1, y1 [M, 4] in pixels of those objects that the prompt names, and
    the tokens that name each [M, T] bool.
    """

    pixels: Tensor
    mask: Tensor
    size: tuple[int, int]
    prompts: Sequence[Prompt]
    boxes_xyxy: Sequence[Tensor]
    positive: Sequence[Tensor]


class Detector(Protocol):
    """A family of detectors, as training sees it."""

    @property
    def slow(self) -> tuple[str, ...]:
        """Modules, by the beginning of a parameter's name, that come trained and learn at the reduced rate."""

    def loss(self, model: nn.Module, lesson: Lesson) -> tuple[Tensor, dict[str, float]]:
        """The loss of a batch, and figures for the log."""

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

    def loss(self, model: nn.Module, lesson: Lesson) -> tuple[Tensor, dict[str, float]]:
        height, width = lesson.size
        extent = torch.tensor([width, height, width, height])
        output = self._run(model, lesson.pixels, lesson.mask, lesson.prompts)
        targets = [
            Targets(to_cxcywh(boxes / extent), positive)
            for boxes, positive in zip(lesson.boxes_xyxy, lesson.positive, strict=True)
        ]
        return detector_loss(output, targets, self.config)

    def answer(
        self, model: nn.Module, pixels: Tensor, mask: Tensor, prompts: Sequence[Prompt]
    ) -> tuple[Tensor, Tensor]:
        output = self._run(model, pixels, mask, prompts)
        return output.logits.sigmoid(), output.boxes_cxcywh

    def shift(self, model: nn.Module, threshold: float, wanted: float) -> float:
        bias = cast(GroundingDino, model).token_logits.bias
        return 0.0 if bias is None else _shift(bias, logit(wanted) - logit(threshold))

    def _run(self, model: nn.Module, pixels: Tensor, mask: Tensor, prompts: Sequence[Prompt]) -> GroundingDinoOutput:
        model, text = cast(GroundingDino, model), padded(prompts)
        features = model.encode_text(text["input_ids"], text["position_ids"], text["self_attention_mask"])
        output: GroundingDinoOutput = model(
            pixels, mask, features, text["text_mask"], text["position_ids"], text["self_attention_mask"]
        )
        return output


@dataclass(frozen=True)
class GlipDetector:
    """GLIP: assigned anchors."""

    config: AlignmentLossConfig = field(default_factory=AlignmentLossConfig)
    slow: tuple[str, ...] = ("backbone.", "text_backbone.")

    def loss(self, model: nn.Module, lesson: Lesson) -> tuple[Tensor, dict[str, float]]:
        output = self._run(model, lesson.pixels, padded(lesson.prompts))
        targets = [
            DenseTargets(boxes, positive) for boxes, positive in zip(lesson.boxes_xyxy, lesson.positive, strict=True)
        ]
        return alignment_loss(output, targets, self.config)

    def answer(
        self, model: nn.Module, pixels: Tensor, mask: Tensor, prompts: Sequence[Prompt]
    ) -> tuple[Tensor, Tensor]:
        text = padded(prompts)
        return candidates(self._run(model, pixels, text), text["token_label"], mask, cast(Glip, model).config)

    def shift(self, model: nn.Module, threshold: float, wanted: float) -> float:
        # A score is the root of a product, so its square moves like the token score.
        return _shift(cast(Glip, model).token_alignment.bias, logit(wanted**2) - logit(threshold**2))

    def _run(self, model: nn.Module, pixels: Tensor, text: dict[str, Tensor]) -> GlipOutput:
        model = cast(Glip, model)
        features = model.encode_text(text["input_ids"], text["position_ids"], text["self_attention_mask"])
        output: GlipOutput = model(pixels, features, text["text_mask"])
        return output


def padded(prompts: Sequence[Prompt]) -> dict[str, Tensor]:
    """Prompts as one batch of tensors, by the names of `server.contract.text.pad_prompts`."""
    arrays: dict[str, Any] = dict(pad_prompts(prompts, max(map(len, prompts))))
    return {name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()}


def _shift(bias: Tensor, amount: float) -> float:
    with torch.no_grad():
        bias.add_(amount)
    return amount
