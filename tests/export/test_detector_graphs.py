"""Graphs that all detectors share: inputs, axes, and features handed from the image encoder to the detector."""

import pytest
import torch

from export import glip, grounding_dino
from export.detector_graphs import detector_inputs, text_inputs
from models import registry
from models.layers.bert import BertConfig


@pytest.mark.parametrize(("name", "family"), [("glip", glip), ("detector", grounding_dino)])
def test_detector_takes_the_image_encoders_outputs_by_name(save_checkpoint, name, family):
    image, text, detector = family.graphs(registry.load(save_checkpoint(name)))
    assert (image.name, text.name, detector.name) == ("image_encoder", "text_encoder", "detector")
    assert set(image.outputs) < set(detector.inputs)
    assert text.outputs == ("text_features",)
    assert detector.outputs == ("token_scores", "boxes")
    assert not set(image.outputs) & detector.canary.keys()


def test_axes_of_a_level_are_named_by_its_stride(save_checkpoint):
    image, _, detector = grounding_dino.graphs(registry.load(save_checkpoint("detector")))
    for level, stride in enumerate((8, 16, 32, 64)):
        axes = {0: "batch", 2: f"height_{stride}", 3: f"width_{stride}"}
        assert image.axes[f"image_features_{level}"] == axes
        assert detector.axes[f"image_features_{level}"] == axes


def test_tokens_see_their_own_group_only_and_positions_restart():
    inputs = text_inputs(BertConfig(vocab_size=11), batch=2, length=5, group=2)
    assert inputs["position_ids"][0].tolist() == [0, 1, 0, 1, 0]
    assert inputs["self_attention_mask"][1, 2].tolist() == [False, False, True, True, False]
    assert inputs["input_ids"].max() < 11


def test_batch_has_padding_of_pixels_and_of_a_token():
    inputs = detector_inputs(batch=2, height=64, width=80, length=6, channels=4)
    assert inputs["pixel_mask"].sum().item() == 2 * 56 * 70
    assert not inputs["pixel_values"][:, :, 56:].any()
    assert inputs["text_mask"].tolist() == [[True] * 6, [True] * 5 + [False]]
    assert inputs["text_features"].shape == (2, 6, 4)
    assert torch.equal(
        inputs["text_features"], detector_inputs(batch=2, height=64, width=80, length=6, channels=4)["text_features"]
    )
