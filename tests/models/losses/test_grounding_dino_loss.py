from dataclasses import replace
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from models.grounding_dino.config import GroundingDinoConfig
from models.grounding_dino.model import GroundingDino
from models.layers.bert import BertConfig
from models.layers.resnet import ResNetConfig
from models.losses.grounding_dino_loss import DetectorLossConfig, Targets, best_positions, detector_loss, one_to_one
from models.losses.matcher import MatchCost

TINY = GroundingDinoConfig(
    backbone=ResNetConfig((1, 1, 1, 1), 8),
    text=BertConfig(vocab_size=20, width=16, layers=1, heads=2, hidden=16, max_positions=8, token_types=1),
    stages=(1, 2, 3),
    d_model=64,
    heads=2,
    levels=3,
    points=2,
    encoder_layers=1,
    decoder_layers=2,
    ffn_hidden=32,
    text_heads=2,
    text_ffn_hidden=32,
    fusion_heads=2,
    fusion_hidden=32,
    fusion_gamma_init=0.1,
    num_queries=5,
    logit_scale=0.125,
    logit_bias_init=-4.0,
)
TOKENS = 4


class Output(NamedTuple):
    decoder_logits: Tensor
    decoder_boxes: Tensor
    proposal_logits: Tensor
    proposal_boxes: Tensor
    proposal_valid: Tensor
    topk_indices: Tensor


def output(*, pictures: int = 2, layers: int = 2) -> Output:
    torch.manual_seed(0)
    return Output(
        torch.randn(layers, pictures, 5, TOKENS, requires_grad=True),
        torch.rand(layers, pictures, 5, 4, requires_grad=True),
        torch.randn(pictures, 9, TOKENS, requires_grad=True),
        torch.rand(pictures, 9, 4, requires_grad=True),
        torch.ones(pictures, 9, dtype=torch.bool),
        torch.arange(5).expand(pictures, -1),
    )


def target(*boxes: tuple[float, float, float, float]) -> Targets:
    positive = torch.zeros(len(boxes), TOKENS, dtype=torch.bool)
    positive[torch.arange(len(boxes)), torch.arange(len(boxes)) % TOKENS] = True
    return Targets(torch.tensor(boxes).reshape(-1, 4), positive)


def none() -> Targets:
    return Targets(torch.zeros(0, 4), torch.zeros(0, TOKENS, dtype=torch.bool))


def tiny_answer(model: GroundingDino) -> object:
    torch.manual_seed(1)
    ids = torch.tensor([[2, 7, 8, 3]] * 2)
    positions = torch.tensor([[0, 0, 1, 0]] * 2)
    attention = torch.eye(TOKENS, dtype=torch.bool).expand(2, -1, -1).clone()
    attention[:, 1:3, 1:3] = True
    mask = torch.ones(2, TOKENS, dtype=torch.bool)
    features = model.encode_text(ids, positions, attention)
    return model(
        torch.randn(2, 3, 64, 64), torch.ones(2, 64, 64, dtype=torch.bool), features, mask, positions, attention
    )


def test_every_decoder_layer_counts():
    targets = [target((0.5, 0.5, 0.2, 0.2)), target((0.3, 0.3, 0.2, 0.2))]
    only_decoder = DetectorLossConfig(selected=0.0, dense=0.0)
    both = output()
    total, _ = detector_loss(both, targets, only_decoder)
    each = [
        detector_loss(
            both._replace(decoder_logits=both.decoder_logits[i : i + 1], decoder_boxes=both.decoder_boxes[i : i + 1]),
            targets,
            only_decoder,
        )[0]
        for i in range(2)
    ]
    assert total.item() == pytest.approx(sum(part.item() for part in each), rel=1e-5)


def test_the_loss_is_per_object_not_per_picture():
    answer = output(pictures=1)
    one = target((0.5, 0.5, 0.2, 0.2))
    boxes = answer.decoder_boxes[0, 0, :1].detach()
    _label, l1, giou = one_to_one(
        answer.decoder_logits[0], answer.decoder_boxes[0], [Targets(boxes, one.positive)], MatchCost(label=0)
    )
    assert l1.item() == giou.item() == pytest.approx(0, abs=1e-6)
    _, figures = detector_loss(
        answer, [target((0.1, 0.1, 0.1, 0.1), (0.9, 0.9, 0.1, 0.1))], DetectorLossConfig(dense=0.0)
    )
    parts = one_to_one(
        answer.decoder_logits[-1],
        answer.decoder_boxes[-1],
        [target((0.1, 0.1, 0.1, 0.1), (0.9, 0.9, 0.1, 0.1))],
        MatchCost(),
    )
    assert figures["decoder_l1"] == pytest.approx(parts[1].item() / 2)


def test_pictures_without_objects_still_teach_what_is_absent():
    answer = output()
    total, _ = detector_loss(answer, [none(), none()])
    total.backward()
    assert torch.isfinite(total)
    assert answer.decoder_logits.grad.abs().sum() > 0
    assert answer.decoder_boxes.grad.abs().sum() == 0


def test_gradient_reaches_all_proposals_and_the_selected_ones():
    selected_only, dense_only = output(), output()
    targets = [target((0.5, 0.5, 0.2, 0.2)), none()]
    detector_loss(selected_only, targets, DetectorLossConfig(dense=0.0))[0].backward()
    assert selected_only.proposal_boxes.grad.abs().sum() > 0
    assert selected_only.proposal_logits.grad[:, 5:].abs().sum() == 0
    detector_loss(dense_only, targets, DetectorLossConfig(selected=0.0, dense=1.0))[0].backward()
    assert dense_only.proposal_logits.grad[:, 5:].abs().sum() > 0


def test_dense_supervision_takes_the_nearest_valid_positions():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.52, 0.5, 0.2, 0.2], [0.1, 0.1, 0.2, 0.2]])
    wanted = target((0.5, 0.5, 0.2, 0.2))
    valid = torch.tensor([True, True, True])
    positions, objects = best_positions(torch.zeros(3, TOKENS), boxes, valid, wanted, MatchCost(), 2)
    assert sorted(positions.tolist()) == [0, 1]
    assert objects.tolist() == [0, 0]
    positions, _ = best_positions(
        torch.zeros(3, TOKENS), boxes, torch.tensor([False, True, True]), wanted, MatchCost(), 1
    )
    assert positions.tolist() == [1]


def test_a_picture_of_a_batch_has_the_loss_it_has_alone():
    answer = output()
    targets = [target((0.5, 0.5, 0.2, 0.2)), target((0.3, 0.3, 0.2, 0.2), (0.8, 0.8, 0.1, 0.1))]
    together = one_to_one(answer.decoder_logits[0], answer.decoder_boxes[0], targets, MatchCost())
    alone = [
        one_to_one(
            answer.decoder_logits[0][i : i + 1], answer.decoder_boxes[0][i : i + 1], targets[i : i + 1], MatchCost()
        )
        for i in range(2)
    ]
    for part in range(3):
        assert together[part].item() == pytest.approx(alone[0][part].item() + alone[1][part].item(), rel=1e-5)


@pytest.mark.parametrize(
    "config", [DetectorLossConfig(), DetectorLossConfig(selected=0.0, dense=1.0)], ids=["selected", "dense"]
)
def test_gradient_reaches_the_encoders_output_head(config: DetectorLossConfig):
    torch.manual_seed(0)
    model = GroundingDino(TINY)
    total, _ = detector_loss(tiny_answer(model), [target((0.5, 0.5, 0.3, 0.3)), target((0.4, 0.6, 0.3, 0.3))], config)
    total.backward()
    for name in ("output.weight", "norm.weight", "box_head.layers.2.weight"):
        gradient = model.selection.get_parameter(name).grad
        assert gradient is not None, name
        assert gradient.abs().sum() > 0, name


def test_a_detector_fits_two_pictures():
    torch.manual_seed(0)
    model = GroundingDino(replace(TINY, encoder_layers=1))
    targets = [target((0.5, 0.5, 0.3, 0.3)), target((0.4, 0.6, 0.3, 0.3))]
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(25):
        loss, _ = detector_loss(tiny_answer(model), targets, DetectorLossConfig(dense=1.0))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3


def test_parts_of_a_batch_add_up_to_it_with_its_number_of_objects():
    answer = output()
    targets = [target((0.5, 0.5, 0.2, 0.2)), target((0.3, 0.3, 0.2, 0.2), (0.8, 0.8, 0.1, 0.1))]
    whole, _ = detector_loss(answer, targets, DetectorLossConfig(dense=1.0))
    parts = [
        detector_loss(
            Output(
                answer.decoder_logits[:, row : row + 1],
                answer.decoder_boxes[:, row : row + 1],
                *(value[row : row + 1] for value in answer[2:]),
            ),
            [targets[row]],
            DetectorLossConfig(dense=1.0),
            objects=3,
        )[0].item()
        for row in range(2)
    ]
    assert sum(parts) == pytest.approx(whole.item(), rel=1e-5)


def test_the_whole_loss_by_hand():
    # One query, one object of the first of two tokens, half a side off: every layer and the selected proposal alike.
    boxes = torch.tensor([0.6, 0.5, 0.2, 0.2])
    answer = Output(
        torch.zeros(2, 1, 1, 2),
        boxes.expand(2, 1, 1, 4),
        torch.zeros(1, 1, 2),
        boxes.expand(1, 1, 4),
        torch.ones(1, 1, dtype=torch.bool),
        torch.zeros(1, 1, dtype=torch.long),
    )
    total, figures = detector_loss(
        answer, [Targets(torch.tensor([[0.5, 0.5, 0.2, 0.2]]), torch.tensor([[True, False]]))]
    )
    label, l1, giou = (0.0625 + 0.1875) * 0.6931472, 0.1, 1 - 0.02 / 0.06
    assert figures == pytest.approx(
        {
            f"{kind}_{name}": value
            for kind in ("decoder", "selected")
            for name, value in (("label", label), ("l1", l1), ("giou", giou))
        },
        rel=1e-4,
    )
    assert total.item() == pytest.approx(3 * (label + 5 * l1 + 2 * giou), rel=1e-4)
