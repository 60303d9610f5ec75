"""Anchors and box decoding of GLIP's heads."""

import math

import torch

from models.glip.config import GLIP_T
from models.glip.heads import cell_anchors, decode_boxes, grid_anchors


def test_first_anchors_are_the_published_ones() -> None:
    cells = cell_anchors(GLIP_T.anchor_sizes, GLIP_T.strides)
    assert cells[0].tolist() == [-28.0, -28.0, 35.0, 35.0]
    assert cells[4].tolist() == [-448.0, -448.0, 575.0, 575.0]


def test_grid_runs_row_by_row_in_steps_of_the_stride() -> None:
    anchors = grid_anchors(torch.tensor([0.0, 1.0, 2.0, 3.0]), 2, 3, 8)
    assert anchors[:, 0].tolist() == [0, 8, 16, 0, 8, 16]
    assert anchors[:, 1].tolist() == [1, 1, 1, 9, 9, 9]


def test_no_delta_gives_the_anchor_back() -> None:
    anchors = torch.tensor([[-28.0, -28.0, 35.0, 35.0], [4.0, 5.0, 10.0, 30.0]])
    torch.testing.assert_close(decode_boxes(torch.zeros(2, 4), anchors), anchors)


def test_deltas_move_and_scale_in_parts_of_the_anchor() -> None:
    anchor = torch.tensor([[0.0, 0.0, 9.0, 19.0]])  # 10 x 20 pixels
    moved = decode_boxes(torch.tensor([[10.0, -5.0, 0.0, 0.0]]), anchor)  # by a width, and by half a height
    torch.testing.assert_close(moved, anchor + torch.tensor([10.0, -10.0, 10.0, -10.0]))
    doubled = decode_boxes(torch.tensor([[0.0, 0.0, 5 * math.log(2), 0.0]]), anchor)
    torch.testing.assert_close(doubled, torch.tensor([[-5.0, 0.0, 14.0, 19.0]]))


def test_a_huge_size_is_bounded() -> None:
    box = decode_boxes(torch.tensor([[0.0, 0.0, 1e4, 1e4]]), torch.tensor([[0.0, 0.0, 15.0, 15.0]]))
    torch.testing.assert_close(box[0, 2] - box[0, 0] + 1, torch.tensor(1000.0))
