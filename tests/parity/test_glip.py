"""GLIP against outputs of the official code, stage by stage, down to its final detections."""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from models.registry import LoadedCheckpoint
from tests.parity import adapter, golden
from tests.parity.conftest import Loader
from tests.parity.golden import Golden

SIZES = {"T": "glip_t", "A": "glip_t_a", "L": "glip_l"}
# A detection has its partner within these: pixels of every corner, and score.
SAME_CORNERS, SAME_SCORE, MATCHED = 0.5, 1e-3, 0.95


@pytest.fixture(scope="module", params=golden.goldens("glip"), ids=str)
def reference(request: pytest.FixtureRequest) -> Golden:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(reference: Golden, loaded: Loader) -> LoadedCheckpoint:
    return loaded(reference)


@pytest.fixture(scope="module")
def images(reference: Golden) -> list[Tensor]:
    return reference.images(golden.recipe.GLIP_MEAN, golden.recipe.GLIP_STD, scale=1.0, bgr=True)


@pytest.fixture(scope="module")
def inputs(reference: Golden, images: list[Tensor]) -> dict[str, Tensor]:
    return adapter.glip_inputs(images, str(reference.data["caption"]))


def positive_map_of(reference: Golden) -> dict[int, list[int]]:
    return {int(label): tokens for label, tokens in json.loads(str(reference.data["positive_map"])).items()}


def test_variant_and_container_are_recognised(reference: Golden, checkpoint: LoadedCheckpoint) -> None:
    assert (checkpoint.variant, checkpoint.container) == (SIZES[reference.variant], "microsoft")
    assert checkpoint.licence == "unknown"


def test_caption_and_canvas_are_the_official_ones(reference: Golden, inputs: dict[str, Tensor]) -> None:
    np.testing.assert_array_equal(inputs["input_ids"][:1], reference.data["input_ids"])
    np.testing.assert_array_equal(inputs["text_mask"][:1], reference.data["attention_mask"].astype(bool))
    assert tuple(inputs["pixel_values"].shape[2:]) == tuple(reference.data["padded_hw"])


def test_every_stage_equals_the_official_output(
    reference: Golden, checkpoint: LoadedCheckpoint, inputs: dict[str, Tensor]
) -> None:
    results = adapter.run_glip(checkpoint.model, inputs)
    length = int(reference.data["attention_mask"].sum())
    for level in range(5):
        results[f"head.dot_logits_valid_tokens.{level}"] = results.pop(f"head.dot_logits.{level}")[..., :length]
    results["lang.hidden"] = adapter.as_many_tokens(reference, "lang.hidden", results["lang.hidden"])
    stages = {name: value for name, value in results.items() if reference.holds(name)}
    assert {"lang.hidden", "fpn.4", "tower0.visual.0", "tower2.visual.4", "tower1.lang", "anchors.0"} <= stages.keys()
    assert {f"head.{part}.{n}" for part in ("bbox_reg", "centerness") for n in range(5)} <= stages.keys()
    assert {f"head.dot_logits_valid_tokens.{level}" for level in range(5)} <= stages.keys()
    faults = [difference(reference, name, value) for name, value in stages.items()]
    assert not any(faults), "\n".join(filter(None, faults))


def test_detections_equal_the_official_ones(
    reference: Golden, checkpoint: LoadedCheckpoint, inputs: dict[str, Tensor], images: list[Tensor]
) -> None:
    """Positions are chosen as in the exported graph, labels and boxes as in the server."""
    prompt = adapter.glip_prompt(inputs, positive_map_of(reference))
    sizes = [(image.shape[1], image.shape[2]) for image in images]
    for row, found in enumerate(adapter.glip_detections(checkpoint.model, inputs, prompt, sizes)):
        boxes, scores, labels = (
            reference.data[f"det.MEAN.{row}.{part}"] for part in ("boxes_xyxy", "scores", "labels")
        )
        assert abs(len(found["boxes"]) - len(boxes)) <= 3
        same = np.abs(boxes[:, None] - found["boxes"][None]).max(-1) < SAME_CORNERS
        same &= labels[:, None] == found["labels"][None]
        same &= np.abs(scores[:, None] - found["scores"][None]) < SAME_SCORE
        assert same.any(1).mean() >= MATCHED


def test_prompt_without_padding_gives_the_same_answer(
    reference: Golden, checkpoint: LoadedCheckpoint, inputs: dict[str, Tensor]
) -> None:
    """The official code pads to 256 tokens; the server to the next bucket."""
    length = int(reference.data["attention_mask"].sum())
    short = {name: value[:, :length] for name, value in inputs.items() if not name.startswith("pixel")}
    short["self_attention_mask"] = short["self_attention_mask"][:, :, :length]
    short["pixel_values"] = inputs["pixel_values"]
    with torch.inference_mode():
        features = checkpoint.model.encode_text(short["input_ids"], short["position_ids"], short["self_attention_mask"])
        output = checkpoint.model(short["pixel_values"], features, short["text_mask"])
    for level, part in enumerate(output.token_logits.split(output.level_sizes, 1)):
        assert not difference(reference, f"head.dot_logits_valid_tokens.{level}", part)


def difference(reference: Golden, name: str, value: Tensor) -> str:
    tolerance = golden.GLIP
    if name.startswith(("head.", "tower")):
        tolerance = golden.GLIP_HEAD if name.startswith("head.") else golden.GLIP_TOWER
        return reference.difference(name, value, tolerance, share=golden.GLIP_SHARE)
    return reference.difference(name, value, tolerance)
