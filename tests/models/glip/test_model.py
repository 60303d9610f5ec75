import pytest
import torch

from models.glip.candidates import candidates
from models.glip.config import GlipConfig
from tests.models.small_glip import RESNET, SWIN, UNFUSED, arguments, random_inputs, random_model

CONFIGS = pytest.mark.parametrize("config", [SWIN, UNFUSED, RESNET], ids=["swin", "unfused", "resnet"])


@CONFIGS
def test_every_position_of_every_level_answers(config: GlipConfig) -> None:
    model, inputs = random_model(config), random_inputs(2, 64, 96, 8)
    output = model(*arguments(model, inputs))
    assert output.level_sizes[:3] == [8 * 12, 4 * 6, 2 * 3]
    assert len(output.level_sizes) == len(config.strides)
    positions = sum(output.level_sizes)
    assert output.token_logits.shape == (2, positions, 8)
    assert output.boxes_xyxy.shape == (2, positions, 4)
    assert output.centerness.shape == (2, positions)
    assert output.anchors_xyxy.shape == (positions, 4)


@CONFIGS
def test_padded_tokens_have_no_logit_and_all_others_have(config: GlipConfig) -> None:
    model, inputs = random_model(config), random_inputs(2, 64, 64, 8)
    logits = model(*arguments(model, inputs)).token_logits
    assert torch.equal(logits.isneginf(), ~inputs["text_mask"][:, None].expand_as(logits))


@CONFIGS
def test_answers_do_not_depend_on_the_rest_of_the_batch(config: GlipConfig) -> None:
    model, inputs = random_model(config), random_inputs(3, 64, 96, 9)
    together = model(*arguments(model, inputs))
    for row in range(3):
        length = int(inputs["text_mask"][row].sum())
        one = {name: value[row : row + 1] for name, value in inputs.items()}
        one |= {name: one[name][:, :length] for name in ("input_ids", "position_ids", "text_mask")}
        one["self_attention_mask"] = one["self_attention_mask"][:, :length, :length]
        alone = model(*arguments(model, one))
        torch.testing.assert_close(together.token_logits[row, :, :length], alone.token_logits[0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.boxes_xyxy[row], alone.boxes_xyxy[0], atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(together.centerness[row], alone.centerness[0], atol=1e-4, rtol=1e-4)


def test_text_and_image_see_each_other_only_where_they_are_fused() -> None:
    inputs = random_inputs(1, 64, 64, 8)
    other = {**inputs, "input_ids": (inputs["input_ids"] + 1) % 50}
    for config, fused in ((SWIN, True), (UNFUSED, False)):
        model = random_model(config)
        boxes = [model(*arguments(model, texts)).boxes_xyxy for texts in (inputs, other)]
        assert torch.equal(*boxes) is not fused


def test_every_weight_learns() -> None:
    model, inputs = random_model(SWIN).train(), random_inputs(2, 64, 64, 8)
    output = model(*arguments(model, inputs))
    valid = output.token_logits[output.token_logits.isfinite()]
    (valid.square().mean() + output.boxes_xyxy.square().mean() + output.centerness.square().mean()).backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []
    assert [name for name, parameter in model.named_parameters() if not parameter.grad.any()] == []


def test_candidates_of_a_batch_are_those_of_each_picture() -> None:
    model, inputs = random_model(SWIN), random_inputs(2, 64, 64, 8)
    output = model(*arguments(model, inputs))
    together = candidates(output, inputs["token_label"], inputs["pixel_mask"], SWIN)
    assert together[0].shape == (2, sum(min(12, size) for size in output.level_sizes), 8)
    one = output._replace(
        token_logits=output.token_logits[1:], boxes_xyxy=output.boxes_xyxy[1:], centerness=output.centerness[1:]
    )
    alone = candidates(one, inputs["token_label"][1:], inputs["pixel_mask"][1:], SWIN)
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a[1:], b)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"anchor_sizes": (1, 2)}, "anchor_sizes"),
        ({"extra_levels": 3, "anchor_sizes": (1, 2, 3, 4, 5, 6)}, "extra_levels"),
        ({"norm_groups": 7}, "norm_groups"),
        ({"fusion_heads": 5}, "fusion_heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        GlipConfig(**changes)
