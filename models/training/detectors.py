"""Training adapters of the detector families: forward pass, loss, and predictions as the exported graph has them."""

from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from models.data.collate import DetectionBatch, relative_boxes
from models.glip.candidates import candidates
from models.glip.heads import grid_anchors
from models.glip.model import Glip, GlipOutput
from models.grounding_dino.model import DenoisedOutput, DenoisingQueries, GroundingDino, GroundingDinoOutput
from models.losses.glip_loss import AlignmentLossConfig, Counts, DenseTargets, alignment_loss, counts_of
from models.losses.grounding_dino_loss import Denoised, DetectorLossConfig, Targets, detector_loss

PROMPT = ("text_mask", "position_ids", "self_attention_mask")


class DetectorAdapter(Protocol):
    """A family of detectors, as training uses it."""

    def counts(self, model: nn.Module, batch: DetectionBatch) -> Tensor:
        """The divisors of the loss's sums, [k] float64; those of the parts of a batch add up to its own."""

    def run(self, model: nn.Module, queries: nn.Module | None, batch: DetectionBatch) -> Any:
        """Run the model; `queries` embeds the batch's denoising queries."""

    def loss(self, output: Any, batch: DetectionBatch, counts: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Compute the loss, and figures; with a whole batch's counts, those of its parts add up to its own."""

    def predict(self, model: nn.Module, output: Any, batch: DetectionBatch) -> tuple[Tensor, Tensor]:
        """Convert an output to token scores [B, N, T] in 0..1 and boxes cx, cy, w, h [B, N, 4] in 0..1."""

    def shift(self, model: nn.Module, threshold: float, wanted: float) -> float:
        """Shift the token logits so that a score of `threshold` becomes about `wanted`; returns the shift."""


@dataclass(frozen=True)
class GroundingDinoAdapter:
    """Grounding DINO: matched queries."""

    config: DetectorLossConfig = field(default_factory=DetectorLossConfig)

    def counts(self, model: nn.Module, batch: DetectionBatch) -> Tensor:
        return torch.tensor([float(sum(map(len, batch.boxes_xyxy)))], dtype=torch.float64)

    def run(
        self, model: nn.Module, queries: nn.Module | None, batch: DetectionBatch
    ) -> tuple[GroundingDinoOutput, DenoisedOutput | None]:
        model, text = cast(GroundingDino, model), batch.text
        features = model.encode_text(text["input_ids"], text["position_ids"], text["self_attention_mask"])
        mask, positions, attention = (text[name] for name in PROMPT)
        if queries is None or not any(one.groups for one in batch.denoising):
            return model(batch.pixels, batch.mask, features, mask, positions, attention), None
        noisy: DenoisingQueries = queries(features, batch.denoising)
        return model.denoise(batch.pixels, batch.mask, features, mask, positions, attention, noisy)

    def loss(self, output: Any, batch: DetectionBatch, counts: Tensor) -> tuple[Tensor, dict[str, float]]:
        found, denoised = output
        denoising = None if denoised is None else Denoised(denoised.logits, denoised.boxes_cxcywh, batch.denoising)
        targets = [
            Targets(relative_boxes(boxes, size), positive)
            for boxes, size, positive in zip(batch.boxes_xyxy, batch.sizes, batch.positive, strict=True)
        ]
        return detector_loss(found, targets, self.config, denoising=denoising, objects=max(1.0, float(counts[0])))

    def predict(self, model: nn.Module, output: Any, batch: DetectionBatch) -> tuple[Tensor, Tensor]:
        return output[0].logits.sigmoid(), output[0].boxes_cxcywh

    def shift(self, model: nn.Module, threshold: float, wanted: float) -> float:
        bias = cast(GroundingDino, model).token_logits.bias
        return 0.0 if bias is None else _add(bias, _logit(wanted) - _logit(threshold))


@dataclass(frozen=True)
class GlipAdapter:
    """GLIP: assigned anchors."""

    config: AlignmentLossConfig = field(default_factory=AlignmentLossConfig)

    def counts(self, model: nn.Module, batch: DetectionBatch) -> Tensor:
        glip = cast(Glip, model)
        height, width = batch.pixels.shape[2:]
        shapes = [(-(-height // stride), -(-width // stride)) for stride in glip.config.strides]
        anchors = [
            grid_anchors(glip.cell_anchors[level], *shape, stride)
            for level, (shape, stride) in enumerate(zip(shapes, glip.config.strides, strict=True))
        ]
        sizes = [len(part) for part in anchors]
        return torch.tensor(
            counts_of(torch.cat(anchors), sizes, _dense_targets(batch), self.config), dtype=torch.float64
        )

    def run(self, model: nn.Module, queries: nn.Module | None, batch: DetectionBatch) -> GlipOutput:
        glip, text = cast(Glip, model), batch.text
        features = glip.encode_text(text["input_ids"], text["position_ids"], text["self_attention_mask"])
        output: GlipOutput = glip(batch.pixels, features, text["text_mask"])
        return output

    def loss(self, output: Any, batch: DetectionBatch, counts: Tensor) -> tuple[Tensor, dict[str, float]]:
        return alignment_loss(output, _dense_targets(batch), self.config, counts=Counts(*counts.tolist()))

    def predict(self, model: nn.Module, output: Any, batch: DetectionBatch) -> tuple[Tensor, Tensor]:
        return candidates(output, batch.text["token_label"], batch.mask, cast(Glip, model).config)

    def shift(self, model: nn.Module, threshold: float, wanted: float) -> float:
        # A score is the root of a product, so its square moves like the token score.
        return _add(cast(Glip, model).token_alignment.bias, _logit(wanted**2) - _logit(threshold**2))


class TrainableDetector(nn.Module):
    """A detector with the parameters that only training needs, as one module: `DetectionBatch` -> its output."""

    def __init__(self, adapter: DetectorAdapter, model: nn.Module, queries: nn.Module | None) -> None:
        super().__init__()
        self.adapter, self.model, self.queries = adapter, model, queries

    def forward(self, batch: DetectionBatch) -> Any:
        return self.adapter.run(self.model, self.queries, batch)


def _dense_targets(batch: DetectionBatch) -> list[DenseTargets]:
    return [DenseTargets(boxes, positive) for boxes, positive in zip(batch.boxes_xyxy, batch.positive, strict=True)]


def _logit(score: float) -> float:
    return float(torch.logit(torch.tensor(score, dtype=torch.float64)))


def _add(bias: Tensor, amount: float) -> float:
    with torch.no_grad():
        bias.add_(amount)
    return amount
