import math

import pytest
import torch

from models.grounding_dino.heads import TokenLogits, inverse_sigmoid


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 0.0), (0.25, math.log(1 / 3)), (1.0, math.log(1000)), (0.0, -math.log(1000)), (1.2, math.log(1000))],
)
def test_inverse_sigmoid_is_clamped_at_a_thousandth(value: float, expected: float) -> None:
    assert inverse_sigmoid(torch.tensor(value)).item() == pytest.approx(expected, abs=1e-6)


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
