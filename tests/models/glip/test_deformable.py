"""The convolution against its formula, written out tap by tap in float64."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.glip.deformable import DeformConv, deform_conv2d


def bilinear(x: np.ndarray, row: float, column: float) -> np.ndarray:
    """x [C, H, W] read at a place, zero outside; a place counts if it is less than a cell away from the map."""
    height, width = x.shape[1:]
    value = np.zeros(len(x))
    if not (-1 < row < height and -1 < column < width):
        return value
    top, left = math.floor(row), math.floor(column)
    for y in (top, top + 1):
        for x_ in (left, left + 1):
            if 0 <= y < height and 0 <= x_ < width:
                value += (1 - abs(row - y)) * (1 - abs(column - x_)) * x[:, y, x_]
    return value


def by_formula(x, offsets, weights, kernel, bias, *, stride, padding) -> np.ndarray:
    """sum over taps k of w_k * x(p + p_k + dp_k) * dm_k, Zhu et al. 2019, equation 1."""
    x, offsets, weights, kernel, bias = (value.double().numpy() for value in (x, offsets, weights, kernel, bias))
    batch, channels = x.shape[:2]
    outputs, _, rows_of_kernel, columns_of_kernel = kernel.shape
    taps = rows_of_kernel * columns_of_kernel
    groups = weights.shape[1] // taps
    each = channels // groups
    result = np.zeros((batch, outputs, *weights.shape[2:]))
    for b, y, x_ in np.ndindex(batch, *weights.shape[2:]):
        result[b, :, y, x_] = bias
        for group in range(groups):
            part = slice(group * each, (group + 1) * each)
            for tap in range(taps):
                move = offsets[b, 2 * (group * taps + tap) : 2 * (group * taps + tap) + 2, y, x_]
                row = y * stride - padding + tap // columns_of_kernel + move[0]
                column = x_ * stride - padding + tap % columns_of_kernel + move[1]
                value = bilinear(x[b, part], row, column) * weights[b, group * taps + tap, y, x_]
                result[b, :, y, x_] += kernel[:, part, tap // columns_of_kernel, tap % columns_of_kernel] @ value
    return result


def case(seed: int, *, batch, channels, outputs, height, width, size, stride, padding, groups, spread) -> dict:
    generator = torch.Generator().manual_seed(seed)
    rows = (height + 2 * padding - size) // stride + 1
    columns = (width + 2 * padding - size) // stride + 1
    taps = size * size

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "x": random(batch, channels, height, width),
        "offsets": random(batch, 2 * groups * taps, rows, columns) * spread,
        "weights": torch.rand(batch, groups * taps, rows, columns, generator=generator, dtype=torch.float64),
        "kernel": random(outputs, channels, size, size),
        "bias": random(outputs),
        "stride": stride,
        "padding": padding,
    }


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    height=st.integers(3, 6),
    width=st.integers(3, 6),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    size=st.sampled_from([1, 3]),
    groups=st.sampled_from([1, 2, 3]),
    spread=st.sampled_from([0.3, 2.0, 10.0]),
)
def test_any_convolution_equals_its_formula(seed, height, width, stride, padding, size, groups, spread) -> None:
    given_ = case(
        seed,
        batch=2,
        channels=6,
        outputs=3,
        height=height,
        width=width,
        size=size,
        stride=stride,
        padding=padding,
        groups=groups,
        spread=spread,
    )
    np.testing.assert_allclose(deform_conv2d(**given_).numpy(), by_formula(**given_), atol=1e-10)


@pytest.mark.parametrize("place", [-1.0, -0.999, -0.5, -1e-6, 0.0, 2.5, 4.0, 4.5, 4.999, 5.0, 6.0])
def test_a_tap_at_the_border_fades_to_zero_a_cell_outside(place: float) -> None:
    x = torch.rand(1, 1, 5, 5, dtype=torch.float64) + 1
    given_ = {
        "x": x,
        "offsets": torch.tensor([place, place], dtype=torch.float64).reshape(1, 2, 1, 1),
        "weights": torch.ones(1, 1, 1, 1, dtype=torch.float64),
        "kernel": torch.ones(1, 1, 1, 1, dtype=torch.float64),
        "bias": torch.zeros(1, dtype=torch.float64),
        "padding": 0,
    }
    np.testing.assert_allclose(deform_conv2d(**given_).numpy(), by_formula(**given_, stride=1), atol=1e-12)


def test_without_offsets_it_is_the_plain_convolution() -> None:
    given_ = case(
        0, batch=2, channels=4, outputs=5, height=7, width=6, size=3, stride=2, padding=1, groups=1, spread=0.0
    )
    given_["weights"] = torch.ones_like(given_["weights"])
    expected = F.conv2d(given_["x"], given_["kernel"], given_["bias"], stride=2, padding=1)
    torch.testing.assert_close(deform_conv2d(**given_), expected)


def test_gradients_reach_offsets_and_weights() -> None:
    given_ = case(
        1, batch=1, channels=2, outputs=2, height=4, width=4, size=3, stride=1, padding=1, groups=1, spread=0.4
    )
    inputs = [given_[name].requires_grad_() for name in ("x", "offsets", "weights", "kernel", "bias")]
    assert torch.autograd.gradcheck(deform_conv2d, inputs)


def test_layer_norms_what_it_convolved() -> None:
    layer = DeformConv(8, stride=2, groups=4)
    x, offsets, weights = torch.randn(1, 8, 6, 6), torch.zeros(1, 18, 3, 3), torch.ones(1, 9, 3, 3)
    expected = layer.norm(F.conv2d(x, layer.conv.weight, layer.conv.bias, stride=2, padding=1))
    torch.testing.assert_close(layer(x, offsets, weights), expected)
