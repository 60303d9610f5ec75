"""Clamped logit of the decoder's box refinement."""

import math

import pytest
import torch

from models.grounding_dino.decoder import inverse_sigmoid


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 0.0), (0.25, math.log(1 / 3)), (1.0, math.log(1000)), (0.0, -math.log(1000)), (1.2, math.log(1000))],
)
def test_inverse_sigmoid_is_clamped_at_a_thousandth(value: float, expected: float) -> None:
    assert inverse_sigmoid(torch.tensor(value)).item() == pytest.approx(expected, abs=1e-6)
