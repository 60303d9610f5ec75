import math
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from models.losses.box_losses import pairwise_giou
from models.losses.glip_loss import AlignmentLossConfig, Counts, DenseTargets, alignment_loss, anchor_targets, counts_of

FAR = [[100.0, 100.0, 109.0, 109.0], [200.0, 200.0, 209.0, 209.0], [300.0, 300.0, 309.0, 309.0]]
ANCHORS = torch.tensor([[0.0, 0.0, 9.0, 9.0], [0.0, 0.0, 9.0, 8.0], *FAR])
TOKENS = 3


class Output(NamedTuple):
    token_logits: Tensor
    boxes_xyxy: Tensor
    centerness: Tensor
    anchors_xyxy: Tensor
    level_sizes: Sequence[int]


def free(anchors: Tensor, levels: Sequence[int], *, pictures: int = 1) -> Output:
    """An output of free tensors: even chances everywhere, and the anchors as boxes."""
    count = len(anchors)
    return Output(
        torch.zeros(pictures, count, TOKENS, dtype=anchors.dtype, requires_grad=True),
        anchors.repeat(pictures, 1, 1).requires_grad_(),
        torch.zeros(pictures, count, dtype=anchors.dtype, requires_grad=True),
        anchors,
        levels,
    )


def target(*boxes: list[float], dtype: torch.dtype = torch.float32) -> DenseTargets:
    """Objects named by tokens 0, 1, ... in turn."""
    positive = torch.eye(TOKENS, dtype=torch.bool)[torch.arange(len(boxes)) % TOKENS]
    return DenseTargets(torch.tensor(boxes, dtype=dtype).reshape(-1, 4), positive)


def squares(stride: int, size: int, side: int) -> Tensor:
    at = torch.arange(0, side, stride, dtype=torch.float64) + (stride - 1) / 2
    y, x = torch.meshgrid(at, at, indexing="ij")
    centres, half = torch.stack([x, y], dim=-1).reshape(-1, 2), (size - 1) / 2
    return torch.cat([centres - half, centres + half], dim=1)


def test_parts_by_hand():
    output = free(ANCHORS, [5])
    total, figures = alignment_loss(output, [target([0, 0, 9, 9])])
    # The first anchor alone is taken: one positive and fourteen negative tokens at an even chance.
    assert figures["positives"] == 1
    assert figures["alignment"] == pytest.approx((0.0625 + 14 * 0.1875) * math.log(2), rel=1e-5)
    assert figures["box"] == pytest.approx(0, abs=1e-6)
    assert figures["centerness"] == pytest.approx(math.log(2), rel=1e-5)
    assert total.item() == pytest.approx(figures["alignment"] + figures["centerness"], rel=1e-5)


def test_box_loss_is_weighted_by_centerness_and_leaves_the_ends_out():
    anchors = torch.tensor([[0.0, 0.0, 8.0, 10.0], [0.0, 0.0, 10.0, 10.0], *FAR])
    output = free(anchors, [5])
    _, figures = alignment_loss(output, [target([0, 0, 10, 10])])
    assert figures["positives"] == 1  # the narrower, at IoU 9/11, falls short
    wide = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 10.0, 10.0], *FAR])
    _, figures = alignment_loss(free(wide, [5]), [target([0, 0, 10, 10])])
    # Both are taken. Centres 5 and 5.5 of 10: centerness 1 and sqrt(4.5 / 5.5); GIoUs 1 and 0.9.
    weight = math.sqrt(4.5 / 5.5)
    assert figures["positives"] == 2
    assert figures["box"] == pytest.approx(0.1 * weight / (1 + weight), rel=1e-5)
    wanted = (math.log(2) + math.log(2)) / 2  # at logit 0 whatever the target
    assert figures["centerness"] == pytest.approx(wanted, rel=1e-5)


def test_weights_weigh_their_parts():
    output = free(ANCHORS, [5])
    shifted = output._replace(boxes_xyxy=ANCHORS[None] + 2)
    total, parts = alignment_loss(shifted, [target([0, 0, 9, 9])], AlignmentLossConfig(3.0, 5.0, 7.0))
    wanted = 3 * parts["alignment"] + 5 * parts["box"] + 7 * parts["centerness"]
    assert total.item() == pytest.approx(wanted, rel=1e-5)
    default, _ = alignment_loss(shifted, [target([0, 0, 9, 9])])
    assert default.item() == pytest.approx(parts["alignment"] + 2 * parts["box"] + parts["centerness"], rel=1e-5)


def test_anchors_without_an_object_learn_that_no_token_names_them():
    matches = anchor_targets(free(ANCHORS, [5]), [target([0, 0, 9, 9])], AlignmentLossConfig())
    assert matches.positive.tolist() == [[True, False, False, False, False]]
    assert matches.tokens[0, 0].tolist() == [True, False, False]
    assert not matches.tokens[0, 1:].any()


def test_sums_are_divided_by_the_positives_of_the_batch_not_of_a_picture():
    one, none = target([0, 0, 9, 9]), target()
    alone, figures = alignment_loss(free(ANCHORS, [5]), [one])
    empty, _ = alignment_loss(free(ANCHORS, [5]), [none])
    both, together = alignment_loss(free(ANCHORS, [5], pictures=2), [one, none])
    assert together["positives"] == figures["positives"] == 1
    assert both.item() == pytest.approx(alone.item() + empty.item(), rel=1e-5)
    twice, _ = alignment_loss(free(ANCHORS, [5], pictures=2), [one, one])
    assert twice.item() == pytest.approx(alone.item(), rel=1e-5)


def test_targets_reach_the_anchors_of_their_own_picture():
    output = free(ANCHORS, [5], pictures=2)
    # Tokens differ by place in the target, so that a mix-up of pictures or objects shows.
    first, second = target([200, 200, 209, 209]), target([100, 100, 109, 109], [0, 0, 9, 9])
    matches = anchor_targets(output, [first, second], AlignmentLossConfig())
    assert matches.tokens.nonzero().tolist() == [[0, 3, 0], [1, 0, 1], [1, 2, 0]]
    assert matches.boxes_xyxy.tolist() == [[200, 200, 209, 209], [0, 0, 9, 9], [100, 100, 109, 109]]


def test_pictures_without_objects_still_teach_what_is_absent():
    output = free(ANCHORS, [5], pictures=2)
    total, figures = alignment_loss(output, [target(), target()])
    total.backward()
    assert torch.isfinite(total)
    assert figures["positives"] == figures["box"] == figures["centerness"] == 0
    assert output.token_logits.grad.abs().sum() > 0
    assert output.boxes_xyxy.grad.abs().sum() == 0
    assert output.centerness.grad.abs().sum() == 0


def test_a_padded_token_costs_nothing():
    short = free(ANCHORS, [5])
    padding = torch.full((1, 5, 2), -torch.inf)
    one = target([0, 0, 9, 9])
    wide = DenseTargets(one.boxes_xyxy, torch.cat([one.positive, torch.zeros(1, 2, dtype=torch.bool)], dim=1))
    total, _ = alignment_loss(short, [one])
    padded, _ = alignment_loss(short._replace(token_logits=torch.cat([short.token_logits, padding], dim=2)), [wide])
    assert padded.item() == total.item()
    padded.backward()
    assert torch.isfinite(short.token_logits.grad).all()


def test_half_precision_is_summed_in_single():
    output = free(ANCHORS, [5])
    half = output._replace(
        token_logits=output.token_logits.to(torch.bfloat16), centerness=output.centerness.to(torch.bfloat16)
    )
    total, _ = alignment_loss(half, [target([0, 0, 9, 9])])
    assert total.dtype == torch.float32
    assert total.item() == alignment_loss(output, [target([0, 0, 9, 9])])[0].item()


def test_a_target_for_every_picture_is_asked_for():
    with pytest.raises(ValueError, match="shorter"):
        alignment_loss(free(ANCHORS, [5], pictures=2), [target()])


def test_gradients_equal_finite_differences():
    torch.manual_seed(0)
    anchors = torch.cat([squares(8, 16, 24), squares(16, 32, 24)])
    output = free(anchors, [9, 4])
    targets = [target([3, 2, 17, 20], [5, 9, 22, 21], dtype=torch.float64)]
    assert anchor_targets(output, targets, AlignmentLossConfig()).positive.any()

    def loss(logits: Tensor, boxes: Tensor, centres: Tensor) -> Tensor:
        free_output = output._replace(token_logits=logits, boxes_xyxy=boxes, centerness=centres)
        return alignment_loss(free_output, targets)[0]

    inputs = [
        (value.detach() + torch.randn_like(value)).requires_grad_()
        for value in (output.token_logits, output.boxes_xyxy, output.centerness)
    ]
    assert torch.autograd.gradcheck(loss, inputs)


def test_free_predictions_reach_the_objects():
    anchors = torch.cat([squares(8, 16, 64), squares(16, 32, 64)])
    output = free(anchors, [64, 16])
    targets = [target([5, 6, 22, 20], [25, 27, 59, 60], dtype=torch.float64)]
    matches = anchor_targets(output, targets, AlignmentLossConfig())
    optimiser = torch.optim.Adam([output.token_logits, output.boxes_xyxy, output.centerness], lr=0.3)
    losses = []
    for _ in range(100):
        loss, _ = alignment_loss(output, targets)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 10
    reached = output.boxes_xyxy.detach()[matches.positive]
    assert pairwise_giou(reached, targets[0].boxes_xyxy)[0].amax(0).min() > 0.95
    assert pairwise_giou(reached, matches.boxes_xyxy)[0].diagonal().min() > 0.9
    assert ((output.token_logits.detach() > 0) == matches.tokens).all()
    torch.testing.assert_close(
        output.centerness.detach().sigmoid()[matches.positive], matches.centerness, atol=0.1, rtol=0
    )


def test_parts_of_a_batch_add_up_to_it_with_its_counts():
    anchors = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 0.0, 10.0, 10.0], *FAR])
    targets = [target([0, 0, 10, 10]), target([100, 100, 109, 109])]
    output = free(anchors, [5], pictures=2)
    whole, figures = alignment_loss(output, targets)
    each = [counts_of(anchors, [5], [one], AlignmentLossConfig()) for one in targets]
    counts = Counts(*(sum(part) for part in zip(*each, strict=True)))
    assert counts.positives == figures["positives"] == 3
    assert counts.centerness == pytest.approx(2 + math.sqrt(4.5 / 5.5))
    assert counts == pytest.approx(counts_of(anchors, [5], targets, AlignmentLossConfig()))
    parts = [
        alignment_loss(
            output._replace(
                token_logits=output.token_logits[row : row + 1],
                boxes_xyxy=output.boxes_xyxy[row : row + 1],
                centerness=output.centerness[row : row + 1],
            ),
            [one],
            counts=counts,
        )[0].item()
        for row, one in enumerate(targets)
    ]
    assert sum(parts) == pytest.approx(whole.item(), rel=1e-5)
    assert min(parts) > 0
