import pytest
import torch

from models.losses.box_losses import box_losses, matched_giou, pairwise_giou, to_cxcywh, to_xyxy


def test_box_formats_are_each_others_inverse():
    boxes = torch.tensor([[0.5, 0.4, 0.2, 0.6]])
    torch.testing.assert_close(to_xyxy(boxes), torch.tensor([[0.4, 0.1, 0.6, 0.7]]))
    torch.testing.assert_close(to_cxcywh(to_xyxy(boxes)), boxes)


def test_giou_of_two_apart_squares_is_minus_the_empty_share_of_their_hull():
    a, b = torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([[2.0, 0.0, 3.0, 1.0]])
    iou, giou = pairwise_giou(a, b)
    assert iou.item() == 0
    assert giou.item() == pytest.approx(-1 / 3)


def test_giou_of_overlapping_boxes():
    a, b = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 1.0, 3.0, 3.0]])
    # Overlap 1, union 7, hull 9.
    assert matched_giou(a, b).item() == pytest.approx(1 / 7 - 2 / 9)


def test_equal_boxes_cost_nothing():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.3, 0.1, 0.1]])
    l1, giou = box_losses(boxes, boxes.clone())
    assert l1.item() == 0
    assert giou.item() == pytest.approx(0, abs=1e-6)


def test_l1_is_the_sum_over_coordinates_and_boxes():
    l1, _ = box_losses(
        torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.1, 0.1, 0.1, 0.1]]),
        torch.tensor([[0.4, 0.5, 0.4, 0.2], [0.1, 0.1, 0.1, 0.2]]),
    )
    assert l1.item() == pytest.approx(0.4)


def test_boxes_without_area_give_no_nan():
    nothing = torch.zeros(1, 4)
    iou, giou = pairwise_giou(nothing, nothing)
    assert iou.item() == 0
    assert torch.isfinite(giou).all()


def test_no_matched_box_gives_a_zero_that_can_be_differentiated():
    boxes = torch.rand(3, 4, requires_grad=True)
    l1, giou = box_losses(boxes[:0], torch.zeros(0, 4))
    (l1 + giou).backward()
    assert boxes.grad is not None
    assert boxes.grad.abs().sum() == 0
