"""GLIP as a bundle: its three graphs and how Microsoft's code serves it."""

from typing import Any

import torch
from torch import Tensor, nn

from export import detector_parts as shared
from export.graph_spec import Part
from export.manifest_defaults import ManifestDefaults
from models.glip.candidates import candidates, rank_is_decided
from models.glip.config import GlipConfig
from models.glip.model import Glip
from models.registry import LoadedCheckpoint
from models.tokenizers import text_rules
from server.contract.manifest import Buckets, DetectionRules, Preprocessing

# GLIP configs/pretrain: blue, green, red in 0..255
MEAN, STD = (103.530, 116.280, 123.675), (57.375, 57.120, 58.395)
MAX_TOKENS = 256
# What the detector takes before the image features.
TAKES = ("pixel_mask", "text_features", "text_mask", "token_label")
# Two positions whose scores differ by less than this part of them may come in either order: float32 noise of a token
# logit is about 1e-5 between two runtimes.
NEAR_TIE = 1e-4


class Detector(nn.Module):
    """What `Glip.detect` takes, and what chooses candidates -> token_scores [B, N, T], boxes_cxcywh [B, N, 4] in 0..1.

    pixel_mask [B, H, W] bool tells the size of the unpadded image, token_label [B, T] int64 the label of each token.
    """

    def __init__(self, model: Glip) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        pixel_mask: Tensor,
        text_features: Tensor,
        text_mask: Tensor,
        token_label: Tensor,
        *image_features: Tensor,
    ) -> tuple[Tensor, Tensor]:
        output = self.model.detect(image_features, text_features, text_mask)
        return candidates(output, token_label, pixel_mask, self.model.config)

    def explained(
        self,
        pixel_mask: Tensor,
        text_features: Tensor,
        text_mask: Tensor,
        token_label: Tensor,
        *image_features: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The answer, and whether the rank of each candidate [B, N] was decided by more than float32 noise."""
        output = self.model.detect(image_features, text_features, text_mask)
        decided = rank_is_decided(output, token_label, self.model.config, near=NEAR_TIE)
        return *candidates(output, token_label, pixel_mask, self.model.config), decided


def parts(checkpoint: LoadedCheckpoint) -> tuple[Part, ...]:
    """The image encoder, the text encoder and the detector."""
    config: GlipConfig = checkpoint.config
    model: Any = checkpoint.model
    # A size that no canvas of 32 px steps has, so that serving never runs at it.
    traced = _inputs(config, batch=2, height=104, width=136, length=9)
    canary = _inputs(config, batch=1, height=64, width=96, length=6)
    return shared.parts(model, Detector(model), traced, canary, strides=config.strides, takes=TAKES)


def rules(checkpoint: LoadedCheckpoint) -> ManifestDefaults:
    """What GLIP engine/predictor_glip.py and the evaluation do; an image is padded as alone in its batch."""
    config: GlipConfig = checkpoint.config
    return ManifestDefaults(
        preprocessing=Preprocessing(
            resize="shorter_longer", shorter=800, longer=1333, channels="bgr", scale=1.0, mean=MEAN, std=STD
        ),
        text=text_rules(
            checkpoint.tokenizer_file,
            "phrases",
            max_tokens=min(MAX_TOKENS, config.text.max_positions),
            attention="prompt",
        ),
        detection=DetectionRules(
            labels_per_box="all",
            box_edges="inclusive",
            box_threshold=0.7,
            text_threshold=0.25,
            nms_iou=0.6,
            max_detections=100,
        ),
        buckets=Buckets(pixel_multiple=32, tokens=(16, 32, 64, 128, MAX_TOKENS), max_batch=4),
    )


def _inputs(config: GlipConfig, *, batch: int, height: int, width: int, length: int) -> dict[str, Tensor]:
    """Labels of two tokens, with a token of none behind each."""
    inputs = shared.detector_inputs(batch=batch, height=height, width=width, length=length, channels=config.text.width)
    order = torch.arange(length)
    label = (order // 3).masked_fill(order % 3 == 2, -1).expand(batch, length)
    prompt = shared.prompt(config.text, batch=batch, length=length, group=length)
    return {**inputs, **prompt, "token_label": label.masked_fill(~inputs["text_mask"], -1)}
