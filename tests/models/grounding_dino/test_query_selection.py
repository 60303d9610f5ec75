"""Query selection: proposals, their validity and the best of them; token logits."""

import math

import torch

from models.grounding_dino.feature_levels import FeatureLevels, level_geometry
from models.grounding_dino.query_selection import Proposals, QuerySelection, TokenLogits, proposal_boxes
from tests.models.small_grounding_dino import RESNET


def selected(count: int = 6) -> tuple[FeatureLevels, Proposals]:
    torch.manual_seed(0)
    mask = torch.ones(2, 4, 6, dtype=torch.bool)
    mask[1, 2:] = False
    levels = level_geometry([mask, mask[:, ::2, ::2], mask[:, ::4, ::4]])
    selection = QuerySelection(RESNET)
    memory = torch.randn(2, levels.mask.shape[1], 64, requires_grad=True)
    text_mask = torch.tensor([[True, True, True], [True, False, False]])
    return levels, selection(memory, levels, torch.randn(2, 3, 64), text_mask, count)


def test_proposals_are_squares_that_double_with_each_level() -> None:
    levels, _ = selected()
    boxes = proposal_boxes(levels)
    assert boxes[0, [0, 24, 30], 2:].tolist() == torch.tensor([[0.05] * 2, [0.1] * 2, [0.2] * 2]).tolist()
    torch.testing.assert_close(boxes[..., :2], levels.centres)


def test_a_proposal_on_padding_is_invalid_and_the_box_of_ones() -> None:
    levels, proposals = selected()
    assert not proposals.valid[~levels.mask].any()
    assert (proposals.boxes[~proposals.valid] == 1).all()
    assert proposals.boxes[proposals.valid].lt(1).all()


def test_a_proposal_at_the_very_border_is_invalid() -> None:
    mask = torch.ones(1, 1, 200, dtype=torch.bool)
    levels = level_geometry([mask])
    text_mask = torch.ones(1, 1, dtype=torch.bool)
    proposals = QuerySelection(RESNET)(torch.randn(1, 200, 64), levels, torch.randn(1, 1, 64), text_mask, 3)
    assert torch.where(~proposals.valid[0])[0].tolist() == [0, 1, 198, 199]  # centres at 0.0025, 0.0075, ...


def test_the_best_come_first_and_bring_their_boxes() -> None:
    _, proposals = selected()
    assert torch.equal(proposals.scores, proposals.logits.amax(2))
    expected = proposals.scores.sort(dim=1, descending=True).values[:, :6]
    assert torch.equal(proposals.scores.gather(1, proposals.indices), expected)
    for row in range(2):
        assert torch.equal(proposals.references[row], proposals.boxes[row, proposals.indices[row]])


def test_gradient_reaches_the_proposals_but_not_through_the_references() -> None:
    _, proposals = selected()
    assert proposals.boxes.requires_grad
    assert proposals.logits.requires_grad
    assert not proposals.references.requires_grad


def test_published_logits_are_plain_products() -> None:
    queries, text = torch.randn(1, 3, 4), torch.randn(1, 2, 4)
    head = TokenLogits(1.0, None)
    assert not list(head.parameters())
    torch.testing.assert_close(head(queries, text, torch.ones(1, 2, dtype=torch.bool)), queries @ text.transpose(1, 2))


def test_logits_start_at_the_bias_and_are_scaled() -> None:
    head = TokenLogits(0.5, -4.0)
    logits = head(torch.ones(1, 1, 4), torch.tensor([[[0.0] * 4, [1.0] * 4]]), torch.ones(1, 2, dtype=torch.bool))
    assert logits.tolist() == [[[-4.0, -2.0]]]


def test_padded_tokens_are_impossible() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    logits = TokenLogits(1.0, None)(torch.zeros(2, 1, 4), torch.zeros(2, 2, 4), mask)
    assert logits.tolist() == [[[0.0, -math.inf]], [[0.0, 0.0]]]
