"""Dynamic convolution and dynamic ReLU of the VL DyHead."""

import torch
import torch.nn.functional as F

from models.glip.vl_dyhead import DynamicConv, DynamicReLU, hard_sigmoid, reread
from tests.models.small_glip import SWIN, random_model

LEVELS = [torch.randn(2, SWIN.channels, size, size + 1) for size in (8, 4, 2)]


def layer() -> DynamicConv:
    conv = random_model(SWIN).tower[0].conv
    assert isinstance(conv, DynamicConv)
    return conv


def test_a_coarser_level_reads_the_memory_of_the_finer_ones_offsets_from_its_start() -> None:
    maps = torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)
    read = reread(maps, torch.zeros(2, 7, 2, 3))
    assert read.shape == (2, 3, 2, 3)
    for row in range(2):
        assert torch.equal(read[row].flatten(), maps[row].flatten()[: 3 * 2 * 3])


def test_hard_sigmoid_is_straight_between_its_two_ends() -> None:
    x = torch.tensor([-9.0, -3.0, -1.5, 0.0, 3.0, 9.0])
    torch.testing.assert_close(hard_sigmoid(x), torch.tensor([0.0, 0.0, 0.25, 0.5, 1.0, 1.0]))


def test_every_level_keeps_its_size_and_reads_its_neighbours_alone() -> None:
    conv = layer()
    before = conv(LEVELS)
    assert [x.shape for x in before] == [x.shape for x in LEVELS]
    for changed in range(3):
        after = conv([x + 1 if number == changed else x for number, x in enumerate(LEVELS)])
        differ = {number for number in range(3) if not torch.allclose(before[number], after[number])}
        assert differ == {number for number in range(3) if abs(number - changed) <= 1}


def test_a_single_level_has_nothing_to_merge_with() -> None:
    conv = layer()
    x = LEVELS[0]
    offsets, weights = conv.offset(x).split((18, 9), dim=1)
    own = conv.same(x, offsets, weights.sigmoid())
    scale = hard_sigmoid(F.relu(conv.scale_attention(own.mean((2, 3), keepdim=True))))
    torch.testing.assert_close(conv([x])[0], conv.activation(own * scale))


def test_dynamic_relu_is_a_relu_where_the_pooled_map_says_nothing() -> None:
    activation = DynamicReLU(8)
    for linear in (activation.fc1, activation.fc2):
        torch.nn.init.zeros_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    x = torch.randn(2, 8, 3, 3)
    torch.testing.assert_close(activation(x), F.relu(x))
