"""Grounding DINO as a bundle: its two graphs and how IDEA-Research's code serves it."""

from typing import Any

import torch
from torch import Tensor, nn

from export.parts import Part, mosaic
from export.rules import ServingRules
from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.model import GroundingDino, GroundingDinoOutput
from models.registry import LoadedCheckpoint
from models.tokenizers import text_rules
from server.contract.manifest import Buckets, DetectionRules, Preprocessing

# GroundingDINO util/inference.py
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MAX_TOKENS = 256
# Two proposals whose logits are nearer than this, in standard deviations of all, may come in either order: float32
# noise is about 5e-6 of them at the published sizes. A query's content belongs to its rank, so a swap changes both.
NEAR_TIE = 5e-5


class TextEncoder(nn.Module):
    """input_ids, position_ids [B, T] int64, self_attention_mask [B, T, T] bool -> text_features [B, T, C]."""

    def __init__(self, model: GroundingDino) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, position_ids: Tensor, self_attention_mask: Tensor) -> Tensor:
        return self.model.encode_text(input_ids, position_ids, self_attention_mask)


class Detector(nn.Module):
    """The model's own inputs -> token_scores [B, N, T] in 0..1 (0 on padding), boxes_cxcywh [B, N, 4] in 0..1."""

    def __init__(self, model: GroundingDino) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        pixel_values: Tensor,
        pixel_mask: Tensor,
        text_features: Tensor,
        text_mask: Tensor,
        position_ids: Tensor,
        self_attention_mask: Tensor,
    ) -> tuple[Tensor, Tensor]:
        output = self.model(pixel_values, pixel_mask, text_features, text_mask, position_ids, self_attention_mask)
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
    """The text encoder and the detector."""
    config: GroundingDinoConfig = checkpoint.config
    model: Any = checkpoint.model
    return (_text_encoder(model, config), _detector(model, config))


def rules(checkpoint: LoadedCheckpoint) -> ServingRules:
    """What GroundingDINO util/inference.py does: no padding of a single image, no suppression of overlapping boxes."""
    config: GroundingDinoConfig = checkpoint.config
    positions = config.text.max_positions
    return ServingRules(
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


def _text_encoder(model: GroundingDino, config: GroundingDinoConfig) -> Part:
    names = ("input_ids", "position_ids", "self_attention_mask")
    traced, canary = _prompt(config, batch=2, length=9), _prompt(config, batch=1, length=6)
    tokens = {0: "batch", 1: "tokens"}
    return Part(
        name="text_encoder",
        module=TextEncoder(model).eval(),
        inputs={name: traced[name] for name in names},
        canary={name: canary[name] for name in names},
        axes={
            "input_ids": tokens,
            "position_ids": tokens,
            "self_attention_mask": tokens | {2: "tokens"},
            "text_features": tokens,
        },
    )


def _detector(model: GroundingDino, config: GroundingDinoConfig) -> Part:
    tokens = {0: "batch", 1: "tokens"}
    return Part(
        name="detector",
        module=Detector(model).eval(),
        # A size that no canvas of 32 px steps has, so that serving never runs at it.
        inputs=_detector_inputs(config, batch=2, height=104, width=136, length=9),
        canary=_detector_inputs(config, batch=1, height=64, width=80, length=6),
        axes={
            "pixel_values": {0: "batch", 2: "height", 3: "width"},
            "pixel_mask": {0: "batch", 1: "height", 2: "width"},
            "text_features": tokens,
            "text_mask": tokens,
            "position_ids": tokens,
            "self_attention_mask": tokens | {2: "tokens"},
            "token_scores": {0: "batch", 1: "queries", 2: "tokens"},
            "boxes": {0: "batch", 1: "queries"},
        },
    )


def _detector_inputs(
    config: GroundingDinoConfig, *, batch: int, height: int, width: int, length: int
) -> dict[str, Tensor]:
    """A batch whose images leave an eighth of the canvas empty, and whose last row has a token of padding."""
    prompt = _prompt(config, batch=batch, length=length)
    mask = torch.zeros(batch, height, width, dtype=torch.bool)
    mask[:, : height - height // 8, : width - width // 8] = True
    text_mask = torch.ones(batch, length, dtype=torch.bool)
    text_mask[-1, -1] = False
    generator = torch.Generator().manual_seed(2)
    return {
        "pixel_values": mosaic(batch, height, width) * mask[:, None],
        "pixel_mask": mask,
        "text_features": torch.randn(batch, length, config.d_model, generator=generator),
        "text_mask": text_mask,
        "position_ids": prompt["position_ids"],
        "self_attention_mask": prompt["self_attention_mask"],
    }


def _prompt(config: GroundingDinoConfig, *, batch: int, length: int) -> dict[str, Tensor]:
    """Tokens in groups of three, whose positions restart and which see their own group only."""
    order = torch.arange(length)
    group = order // 3
    return {
        "input_ids": (torch.arange(batch * length).reshape(batch, length) * 7) % config.text.vocab_size,
        "position_ids": (order % 3).expand(batch, length).clone(),
        "self_attention_mask": (group[:, None] == group).expand(batch, length, length).clone(),
    }
