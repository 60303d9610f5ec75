import math

import pytest
import torch

from models.losses.token_focal_loss import focal_terms, token_focal_loss


def test_focal_terms_at_an_even_chance():
    positive, negative = focal_terms(torch.zeros(1))
    assert positive.item() == pytest.approx(0.25 * 0.25 * math.log(2))
    assert negative.item() == pytest.approx(0.75 * 0.25 * math.log(2))


def test_padded_tokens_cost_nothing_and_give_no_nan():
    logits = torch.tensor([[0.0, -torch.inf]], requires_grad=True)
    loss = token_focal_loss(logits, torch.tensor([[True, False]]))
    loss.backward()
    assert loss.item() == pytest.approx(0.0625 * math.log(2))
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, 1] == 0


def test_sure_and_right_is_cheaper_than_sure_and_wrong():
    logits = torch.tensor([[4.0, -4.0]])
    right = token_focal_loss(logits, torch.tensor([[True, False]]))
    wrong = token_focal_loss(logits, torch.tensor([[False, True]]))
    assert right < wrong / 100


def test_queries_that_are_not_counted_cost_nothing():
    logits = torch.zeros(2, 3)
    positive = torch.zeros(2, 3, dtype=torch.bool)
    half = token_focal_loss(logits, positive, torch.tensor([True, False]))
    assert half.item() == pytest.approx(token_focal_loss(logits, positive).item() / 2)
