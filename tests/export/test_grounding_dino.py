"""The detector graph of Grounding DINO, and the queries whose rank depends on float32 noise."""

from types import SimpleNamespace

import torch

from export import grounding_dino
from export.grounding_dino import query_rank_is_decided
from models import registry


def proposals(scores, *, queries, invalid=()):
    valid = torch.ones(1, len(scores), dtype=torch.bool)
    valid[0, list(invalid)] = False
    logits = torch.tensor([scores])[..., None]
    order = logits.amax(2).sort(1, descending=True).indices
    return SimpleNamespace(proposal_logits=logits, proposal_valid=valid, topk_indices=order[:, :queries])


def test_padded_tokens_score_zero(save_checkpoint):
    detector = grounding_dino.graphs(registry.load(save_checkpoint("detector")))[2]
    scores, boxes = detector.module(*detector.inputs.values())
    padding = ~detector.inputs["text_mask"][:, None].expand_as(scores)
    assert (scores[padding] == 0).all()
    assert (scores[~padding] > 0).all()
    assert boxes.shape == (2, 20, 4)


def test_ranks_that_a_rounding_error_could_swap_are_undecided():
    decided = query_rank_is_decided(proposals([4.0, 3.0, 3.0 - 1e-6, 1.0, 0.0], queries=4))
    assert decided.tolist() == [[True, False, False, True]]


def test_the_last_query_is_undecided_where_the_next_proposal_ties():
    assert query_rank_is_decided(proposals([4.0, 3.0, 2.0, 2.0], queries=3)).tolist() == [[True, True, False]]


def test_invalid_proposals_may_come_in_any_order():
    decided = query_rank_is_decided(proposals([4.0, 3.0, 3.0, 1.0], queries=3, invalid=(1, 2)))
    assert decided.tolist() == [[True, True, True]]
