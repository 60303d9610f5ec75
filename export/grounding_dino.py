"""Grounding DINO as a bundle: its three graphs and how IDEA-Research's code serves it."""

from typing import Any

import torch
from torch import Tensor, nn

from export import detector_parts as shared
from export.graph_spec import Part
from export.manifest_defaults import ManifestDefaults
from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.model import GroundingDino, GroundingDinoOutput
from models.registry import LoadedCheckpoint
from models.tokenizers import text_rules
from server.contract.manifest import Buckets, DetectionRules, Preprocessing

# GroundingDINO util/inference.py
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_TOKENS = 256
# What the detector takes before the image features.
TAKES = ("pixel_mask", "text_features", "text_mask", "position_ids", "self_attention_mask")
# Two proposals whose logits are nearer than this, in standard deviations of all, may come in either order: float32
# noise is about 5e-6 of them at the published sizes. A query's content belongs to its rank, so a swap changes both.
NEAR_TIE = 5e-5


class Detector(nn.Module):
    """What `GroundingDino.detect` takes -> token_scores [B, N, T] in 0..1 (0 on padding), boxes_cxcywh [B, N, 4]."""

    def __init__(self, model: GroundingDino) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        pixel_mask: Tensor,
        text_features: Tensor,
        text_mask: Tensor,
        position_ids: Tensor,
        self_attention_mask: Tensor,
        *image_features: Tensor,
    ) -> tuple[Tensor, Tensor]:
        output = self.model.detect(
            image_features, pixel_mask, text_features, text_mask, position_ids, self_attention_mask
        )
        return self._answer(output)

    def explained(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The answer to `forward`'s inputs, and whether each query's rank [B, N] was decided by more than noise."""
        output = self.model.detect(inputs[len(TAKES) :], *inputs[: len(TAKES)])
        return *self._answer(output), rank_is_decided(output)

    def _answer(self, output: GroundingDinoOutput) -> tuple[Tensor, Tensor]:
        return output.logits.sigmoid(), output.boxes_cxcywh


def rank_is_decided(output: GroundingDinoOutput) -> Tensor:
    """[B, N] bool: whether a query's proposal beats the next, and is beaten by the one before, by more than noise.

    Two invalid proposals are the same query in either order: same logits, same box.
    """
    count = output.topk_indices.shape[1]
    scores, order = output.proposal_logits.amax(2).sort(1, descending=True)  # [B, S]
    gaps = (scores[:, :-1] - scores[:, 1:]) / scores.std(1, keepdim=True)  # [B, S - 1]
    invalid = ~output.proposal_valid.gather(1, order)
    gaps = gaps.masked_fill(invalid[:, :-1] & invalid[:, 1:], torch.inf)
    edge = torch.full_like(scores[:, :1], torch.inf)
    before, after = torch.cat((edge, gaps), 1), torch.cat((gaps, edge), 1)  # [B, S]
    return (torch.minimum(before, after) > NEAR_TIE)[:, :count]


def parts(checkpoint: LoadedCheckpoint) -> tuple[Part, ...]:
    """The image encoder, the text encoder and the detector."""
    config: GroundingDinoConfig = checkpoint.config
    model: Any = checkpoint.model
    # A size that no canvas of 32 px steps has, so that serving never runs at it.
    traced = _inputs(config, batch=2, height=104, width=136, length=9)
    canary = _inputs(config, batch=1, height=64, width=80, length=6)
    return shared.parts(model, Detector(model), traced, canary, strides=config.strides, takes=TAKES)


def rules(checkpoint: LoadedCheckpoint) -> ManifestDefaults:
    """What GroundingDINO util/inference.py does: no padding of a single image, no suppression of overlapping boxes."""
    config: GroundingDinoConfig = checkpoint.config
    positions = config.text.max_positions
    return ManifestDefaults(
        preprocessing=Preprocessing(
            resize="shorter_longer", shorter=800, longer=1333, resample="bilinear", mean=MEAN, std=STD
        ),
        text=text_rules(
            checkpoint.tokenizer_file,
            "phrases",
            max_tokens=MAX_TOKENS,
            max_label_tokens=positions if positions < MAX_TOKENS else None,
        ),
        detection=DetectionRules(box_threshold=0.35, text_threshold=0.25, max_detections=config.num_queries),
        buckets=Buckets(pixel_multiple=1, tokens=(16, 32, 64, 128, MAX_TOKENS), max_batch=4),
    )


def _inputs(config: GroundingDinoConfig, *, batch: int, height: int, width: int, length: int) -> dict[str, Tensor]:
    inputs = shared.detector_inputs(batch=batch, height=height, width=width, length=length, channels=config.d_model)
    return {**inputs, **shared.prompt(config.text, batch=batch, length=length, group=3)}
