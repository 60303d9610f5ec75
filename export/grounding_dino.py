"""Graphs of Grounding DINO: image encoder, text encoder and detector."""

import torch
from torch import Tensor, nn

from export.detector_graphs import detector_graphs, detector_inputs, text_inputs
from export.graph_spec import GraphSpec
from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.model import GroundingDino, GroundingDinoOutput
from models.registry import LoadedCheckpoint

# Inputs of the detector before the image features.
INPUTS = ("pixel_mask", "text_features", "text_mask", "position_ids", "self_attention_mask")
# Difference of two proposals' logits, in standard deviations of all, below which either may come first: float32 noise
# is about 5e-6 of them at the published sizes. A query's content belongs to its rank, so a swap changes both.
LOGIT_NOISE = 5e-5


class GroundingDinoGraph(nn.Module):
    """The detector's `INPUTS` and image features -> token_scores [B, N, T] in 0..1 (0 on padding), boxes_cxcywh."""

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
        return output.logits.sigmoid(), output.boxes_cxcywh

    def with_rank_decided(self, *inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Outputs of `forward`, and [B, N] bool: the query's rank was decided by more than float32 noise."""
        output = self.model.detect(inputs[len(INPUTS) :], *inputs[: len(INPUTS)])
        return output.logits.sigmoid(), output.boxes_cxcywh, query_rank_is_decided(output)


def query_rank_is_decided(output: GroundingDinoOutput) -> Tensor:
    """[B, N] bool: a query's proposal is further than `LOGIT_NOISE` from its neighbours in rank.

    Two invalid proposals are the same query in either order: same logits, same box.
    """
    count = output.topk_indices.shape[1]
    scores, order = output.proposal_logits.amax(2).sort(1, descending=True)  # [B, S]
    gaps = (scores[:, :-1] - scores[:, 1:]) / scores.std(1, keepdim=True)  # [B, S - 1]
    invalid = ~output.proposal_valid.gather(1, order)
    gaps = gaps.masked_fill(invalid[:, :-1] & invalid[:, 1:], torch.inf)
    edge = torch.full_like(scores[:, :1], torch.inf)
    before, after = torch.cat((edge, gaps), 1), torch.cat((gaps, edge), 1)  # [B, S]
    return (torch.minimum(before, after) > LOGIT_NOISE)[:, :count]


def graphs(checkpoint: LoadedCheckpoint) -> tuple[GraphSpec, ...]:
    """Specifications of the image encoder, the text encoder and the detector."""
    model = checkpoint.model
    assert isinstance(model, GroundingDino)
    # A size that no canvas of 32 px steps has, so that serving never runs at it.
    traced = _inputs(model.config, batch=2, height=104, width=136, length=9)
    canary = _inputs(model.config, batch=1, height=64, width=80, length=6)
    return detector_graphs(model, GroundingDinoGraph(model), traced, canary, inputs=INPUTS)


def _inputs(config: GroundingDinoConfig, *, batch: int, height: int, width: int, length: int) -> dict[str, Tensor]:
    inputs = detector_inputs(batch=batch, height=height, width=width, length=length, channels=config.d_model)
    return {**inputs, **text_inputs(config.text, batch=batch, length=length, group=3)}
