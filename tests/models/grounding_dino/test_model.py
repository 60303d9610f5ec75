import os
import warnings
from dataclasses import replace

import pytest
import torch

from models.grounding_dino.config import GroundingDinoConfig
from tests.models.small_grounding_dino import RESNET, SWIN, arguments, random_inputs, random_model

CONFIGS = pytest.mark.parametrize("config", [SWIN, RESNET], ids=["swin", "resnet"])


@CONFIGS
def test_output_has_every_part_that_training_supervises(config: GroundingDinoConfig) -> None:
    model = random_model(config)
    output = model(*arguments(model, random_inputs(2, 64, 96, 7)))
    positions, count, layers = output.proposal_valid.shape[1], config.num_queries, config.decoder_layers
    assert {name: tuple(value.shape) for name, value in output._asdict().items()} == {
        "logits": (2, count, 7),
        "boxes_cxcywh": (2, count, 4),
        "decoder_logits": (layers, 2, count, 7),
        "decoder_boxes": (layers, 2, count, 4),
        "proposal_logits": (2, positions, 7),
        "proposal_boxes": (2, positions, 4),
        "proposal_valid": (2, positions),
        "topk_indices": (2, count),
    }
    assert torch.equal(output.logits, output.decoder_logits[-1])
    assert torch.equal(output.boxes_cxcywh, output.decoder_boxes[-1])
    for boxes in (output.decoder_boxes, output.proposal_boxes):
        assert boxes.isfinite().all()
        assert ((boxes >= 0) & (boxes <= 1)).all()


@CONFIGS
def test_answer_does_not_depend_on_the_rest_of_the_batch(config: GroundingDinoConfig) -> None:
    model, inputs = random_model(config), random_inputs(3, 64, 80, 9)
    together = model(*arguments(model, inputs))
    for row in range(3):
        alone = {name: value[row : row + 1] for name, value in inputs.items()}
        length = int(alone["text_mask"].sum())  # without the padding that longer prompts brought
        for name in ("input_ids", "position_ids", "text_mask"):
            alone[name] = alone[name][:, :length]
        alone["self_attention_mask"] = alone["self_attention_mask"][:, :length, :length]
        output = model(*arguments(model, alone))
        assert torch.equal(output.topk_indices[0], together.topk_indices[row])
        torch.testing.assert_close(output.logits[0], together.logits[row, :, :length], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(output.boxes_cxcywh[0], together.boxes_cxcywh[row], rtol=1e-4, atol=1e-5)
        assert (together.logits[row, :, length:] == -torch.inf).all()


@CONFIGS
def test_the_image_and_the_text_both_count(config: GroundingDinoConfig) -> None:
    model, inputs = random_model(config), random_inputs(1, 64, 64, 6)
    before = model(*arguments(model, inputs))
    for name, value in (("pixel_values", inputs["pixel_values"].flip(3)), ("input_ids", inputs["input_ids"].flip(1))):
        after = model(*arguments(model, inputs | {name: value}))
        assert (before.logits - after.logits).abs().max() > 1e-2
        assert (before.boxes_cxcywh - after.boxes_cxcywh).abs().max() > 1e-3


@CONFIGS
def test_every_weight_learns(config: GroundingDinoConfig) -> None:
    """Also the encoder's output projection, norm and box head, which get nothing through the detached references."""
    model = random_model(config).train()
    inputs = random_inputs(2, 64, 96, 7)
    output = model(*arguments(model, inputs))
    mask = inputs["text_mask"]
    loss = sum(
        boxes.square().sum() + logits.masked_fill(~mask[:, None], 0.0).square().sum()
        for boxes, logits in (
            (output.decoder_boxes, output.decoder_logits),
            (output.proposal_boxes, output.proposal_logits),
        )
    )
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert [name for name, gradient in gradients.items() if gradient is None or not gradient.abs().sum() > 0] == []


def test_encoder_heads_learn_from_their_proposals_alone() -> None:
    model = random_model(RESNET).train()
    output = model(*arguments(model, random_inputs(1, 64, 64, 5)))
    (output.proposal_boxes.sum() + output.proposal_logits.sum()).backward()
    for part in (model.selection.output, model.selection.norm, model.selection.box_head):
        for parameter in part.parameters():
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0


def test_there_are_no_more_queries_than_positions() -> None:
    model = random_model(replace(RESNET, num_queries=500))
    output = model(*arguments(model, random_inputs(1, 64, 64, 5)))
    assert output.logits.shape[1] == output.proposal_valid.shape[1] < 500
    assert sorted(output.topk_indices[0].tolist()) == list(range(output.topk_indices.shape[1]))


def test_initial_bias_makes_an_untrained_model_expect_nothing() -> None:
    torch.manual_seed(0)
    model = type(random_model(RESNET))(RESNET).eval()
    scores = model(*arguments(model, random_inputs(1, 64, 64, 5))).logits.sigmoid()
    assert scores.mean() < 0.1


def test_text_features_of_a_prompt_are_the_same_in_any_batch() -> None:
    model, inputs = random_model(SWIN), random_inputs(3, 8, 8, 9)
    names = ("input_ids", "position_ids", "self_attention_mask")
    together = model.encode_text(*(inputs[name] for name in names))
    alone = model.encode_text(*(inputs[name][2:] for name in names))
    torch.testing.assert_close(together[2:], alone)


@CONFIGS
def test_a_trace_bakes_no_size_in(config: GroundingDinoConfig) -> None:
    model = random_model(config)
    with warnings.catch_warnings(record=True) as caught:
        trace = torch.jit.trace(model, arguments(model, random_inputs(2, 64, 96, 7)), check_trace=False)
    assert not [warning for warning in caught if f"{os.sep}models{os.sep}" in warning.filename]
    for sizes in ((1, 96, 64, 4), (3, 75, 131, 12), (1, 33, 47, 1), (2, 200, 40, 3)):
        args = arguments(model, random_inputs(*sizes, seed=1))
        torch.testing.assert_close(tuple(trace(*args)), tuple(model(*args)), rtol=1e-4, atol=1e-4)
