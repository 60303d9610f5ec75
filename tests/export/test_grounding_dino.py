from types import SimpleNamespace

import torch

from export import grounding_dino
from export.grounding_dino import rank_is_decided
from models import registry


def proposals(scores, *, queries, invalid=()):
    valid = torch.ones(1, len(scores), dtype=torch.bool)
    valid[0, list(invalid)] = False
    logits = torch.tensor([scores])[..., None]
    order = logits.amax(2).sort(1, descending=True).indices
    return SimpleNamespace(proposal_logits=logits, proposal_valid=valid, topk_indices=order[:, :queries])


def test_rules_are_those_of_the_official_code(save_checkpoint):
    rules = grounding_dino.rules(registry.load(save_checkpoint("detector")))
    assert (rules.preprocessing.shorter, rules.preprocessing.longer) == (800, 1333)
    assert rules.buckets.pixel_multiple == 1
    assert (rules.detection.box_threshold, rules.detection.text_threshold) == (0.35, 0.25)
    assert rules.detection.nms_iou is None
    assert rules.detection.token_reduction == "max"
    assert rules.text.max_tokens == 256


def test_a_label_may_not_be_longer_than_the_model_knows_positions(save_checkpoint):
    rules = grounding_dino.rules(registry.load(save_checkpoint("detector")))
    assert rules.text.max_label_tokens == 48


def test_padded_tokens_score_zero(save_checkpoint):
    detector = grounding_dino.parts(registry.load(save_checkpoint("detector")))[2]
    scores, boxes = detector.module(*detector.inputs.values())
    padding = ~detector.inputs["text_mask"][:, None].expand_as(scores)
    assert (scores[padding] == 0).all()
    assert (scores[~padding] > 0).all()
    assert boxes.shape == (2, 20, 4)


def test_ranks_that_a_rounding_error_could_swap_are_undecided():
    decided = rank_is_decided(proposals([4.0, 3.0, 3.0 - 1e-6, 1.0, 0.0], queries=4))
    assert decided.tolist() == [[True, False, False, True]]


def test_the_last_query_is_undecided_where_the_next_proposal_ties():
    assert rank_is_decided(proposals([4.0, 3.0, 2.0, 2.0], queries=3)).tolist() == [[True, True, False]]


def test_invalid_proposals_may_come_in_any_order():
    decided = rank_is_decided(proposals([4.0, 3.0, 3.0, 1.0], queries=3, invalid=(1, 2)))
    assert decided.tolist() == [[True, True, True]]
