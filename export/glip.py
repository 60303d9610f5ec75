"""Graphs of GLIP: image encoder, text encoder, and detector with its choice of candidates."""

import torch
from torch import Tensor, nn

from export.detector_graphs import detector_graphs, detector_inputs, text_inputs
from export.graph_spec import GraphSpec
from models.glip.candidates import candidates, rank_is_decided
from models.glip.config import GlipConfig
from models.glip.model import Glip
from models.registry import LoadedCheckpoint

INPUTS = ("pixel_mask", "text_features", "text_mask", "token_label")  # of the detector, before the image features
# Relative difference of two scores below which either position may come first: float32 noise of a token logit is about
# 1e-5 between two runtimes.
SCORE_NOISE = 1e-4


class GlipGraph(nn.Module):
    """The detector's `INPUTS` and image features -> token_scores [B, N, T], boxes_cxcywh [B, N, 4] in 0..1.

    pixel_mask [B, H, W] bool gives the size of the unpadded image, token_label [B, T] int64 the label of each token.
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

    def with_rank_decided(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of `forward`, and [B, N] bool: the candidate's rank was decided by more than float32 noise."""
        pixel_mask, text_features, text_mask, token_label, *image_features = inputs
        output = self.model.detect(image_features, text_features, text_mask)
        decided = rank_is_decided(output, token_label, self.model.config, near=SCORE_NOISE)
        return *candidates(output, token_label, pixel_mask, self.model.config), decided


def graphs(checkpoint: LoadedCheckpoint) -> tuple[GraphSpec, ...]:
    """Specifications of the image encoder, the text encoder and the detector."""
    model = checkpoint.model
    assert isinstance(model, Glip)
    # A size that no canvas of 32 px steps has, so that serving never runs at it.
    traced = _inputs(model.config, batch=2, height=104, width=136, length=9)
    canary = _inputs(model.config, batch=1, height=64, width=96, length=6)
    return detector_graphs(model, GlipGraph(model), traced, canary, inputs=INPUTS)


def _inputs(config: GlipConfig, *, batch: int, height: int, width: int, length: int) -> dict[str, Tensor]:
    """Labels of two tokens, each followed by a token of no label."""
    inputs = detector_inputs(batch=batch, height=height, width=width, length=length, channels=config.text.width)
    order = torch.arange(length)
    label = (order // 3).masked_fill(order % 3 == 2, -1).expand(batch, length)
    text = text_inputs(config.text, batch=batch, length=length, group=length)
    return {**inputs, **text, "token_label": label.masked_fill(~inputs["text_mask"], -1)}
