import pytest
import torch
from torch.nn import functional

from models.layers import swin
from models.layers.swin import MASKED, PatchMerging, Swin, SwinConfig, WindowAttention

CONFIG = SwinConfig(embed_dim=8, depths=(1, 2, 2, 1), heads=(1, 2, 2, 4), window=3)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (33, 47), (5, 4)])
def test_stage_maps_have_their_strides_rounded_up(height: int, width: int) -> None:
    maps = Swin(CONFIG, (0, 1, 3))(torch.randn(2, 3, height, width))
    assert [tuple(x.shape) for x in maps] == [
        (2, 8 << stage, -(-height // stride), -(-width // stride)) for stage, stride in ((0, 4), (1, 8), (3, 32))
    ]


def test_only_stages_in_use_have_a_norm() -> None:
    assert sorted(Swin(CONFIG, (1, 3)).norms) == ["1", "3"]


def test_images_of_a_batch_do_not_see_each_other() -> None:
    torch.manual_seed(0)
    network, x = Swin(CONFIG, (1, 2)).eval(), torch.randn(2, 3, 40, 52)
    for together, alone in zip(network(x), network(x[1:]), strict=True):
        torch.testing.assert_close(together[1:], alone)


def test_windows_are_cut_row_by_row_and_put_back() -> None:
    x = torch.arange(2 * 4 * 6).reshape(1, 4, 6, 2).float()
    windows = swin.to_windows(x, 2)
    assert windows.shape == (1, 6, 4, 2)
    torch.testing.assert_close(windows[0, 1], torch.stack((x[0, 0, 2], x[0, 0, 3], x[0, 1, 2], x[0, 1, 3])))
    torch.testing.assert_close(swin.from_windows(windows, 2, 4, 6), x)


@pytest.mark.parametrize(("height", "width", "window"), [(7, 9, 3), (3, 3, 3), (2, 5, 4), (12, 24, 12)])
def test_shifted_windows_join_only_what_was_together_before_the_shift(height: int, width: int, window: int) -> None:
    padded = [-(-size // window) * window for size in (height, width)]
    shift = window // 2
    # A cell in the first rows or columns comes round to the far side, next to cells which were never its neighbours.
    origin = torch.stack(torch.meshgrid(*(torch.arange(size) for size in padded), indexing="ij"), -1)[None]
    came_round = swin.to_windows(origin.roll((-shift, -shift), (1, 2)) < shift, window)[0]  # [n, N, 2]
    apart = (came_round[:, :, None] != came_round[:, None]).any(-1)
    mask = swin.shifted_window_mask(torch.zeros(1, height, width, 1), window)
    torch.testing.assert_close(mask, torch.where(apart, MASKED, 0.0)[:, None])


def test_merging_takes_the_corners_column_by_column() -> None:
    merge = PatchMerging(1)
    x = torch.tensor([[1.0, 2.0, 5.0], [3.0, 4.0, 6.0]])[None, :, :, None]
    seen = []
    merge.norm.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert merge(x).shape == (1, 1, 2, 2)
    assert seen[0].tolist() == [[[[1.0, 3.0, 2.0, 4.0], [5.0, 6.0, 0.0, 0.0]]]]  # the odd column is padded


def test_relative_positions_are_numbered_by_row_then_column() -> None:
    expected = [[4, 3, 1, 0], [5, 4, 2, 1], [7, 6, 4, 3], [8, 7, 5, 4]]
    assert swin.relative_position_index(2).tolist() == expected


def test_window_attention_adds_the_bias_of_each_head_and_the_mask() -> None:
    torch.manual_seed(0)
    attention = WindowAttention(4, 2, 2)
    torch.nn.init.normal_(attention.relative_position_bias_table)
    windows, mask = torch.randn(1, 3, 4, 4), torch.where(torch.rand(3, 1, 4, 4) > 0.5, MASKED, 0.0)
    q, k, v = attention.qkv(windows).reshape(3, 4, 3, 2, 2).permute(2, 0, 3, 1, 4)  # [n, h, N, d]
    bias = attention.relative_position_bias_table[attention.relative_position_index].permute(2, 0, 1)
    expected = functional.scaled_dot_product_attention(q, k, v, attn_mask=bias + mask).transpose(1, 2).flatten(2)
    torch.testing.assert_close(attention(windows, mask)[0], attention.proj(expected))
