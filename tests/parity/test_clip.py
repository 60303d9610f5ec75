"""CLIP against outputs of the official code, stage by stage."""

import pytest
import torch
from torch import Tensor

from models.registry import LoadedCheckpoint
from tests.parity import adapter, golden
from tests.parity.conftest import Loader
from tests.parity.golden import Golden


@pytest.fixture(scope="module", params=golden.goldens("clip"), ids=str)
def reference(request: pytest.FixtureRequest) -> Golden:
    return request.param


@pytest.fixture(scope="module")
def checkpoint(reference: Golden, loaded: Loader) -> LoadedCheckpoint:
    return loaded(reference)


def inputs_of(reference: Golden) -> tuple[Tensor, Tensor]:
    images = reference.images(golden.recipe.CLIP_MEAN, golden.recipe.CLIP_STD)
    return torch.stack(images), torch.from_numpy(reference.data["input_ids"])


def test_every_stage_equals_the_official_output(reference: Golden, checkpoint: LoadedCheckpoint) -> None:
    results = adapter.run_clip(checkpoint.model, reference.kind, *inputs_of(reference))
    stages = {name: value for name, value in results.items() if reference.holds(name)}
    assert stages.keys() >= {"image_embeds", "text_embeds", "logits_per_image", "logits_per_text"}
    faults = [
        reference.difference(name, value, golden.CLIP_LOGITS if name.startswith("logits") else golden.CLIP)
        for name, value in stages.items()
    ]
    assert not any(faults), "\n".join(filter(None, faults))


def test_variant_and_container_are_recognised(reference: Golden, checkpoint: LoadedCheckpoint) -> None:
    assert checkpoint.variant.replace("/", "-").replace("@", "-") == reference.variant
    assert checkpoint.container == {"openai": "openai", "hf": "huggingface"}[reference.kind]


def test_batch_equals_one_by_one(reference: Golden, checkpoint: LoadedCheckpoint) -> None:
    model = checkpoint.model
    pixel_values, input_ids = inputs_of(reference)
    with torch.inference_mode():
        images, texts = model.encode_image(pixel_values), model.encode_text(input_ids)
        for row in range(len(images)):
            alone = model.encode_image(pixel_values[row : row + 1])[0]
            torch.testing.assert_close(images[row], alone, rtol=1e-4, atol=golden.CLIP[1] * alone.std().item())
        for row in range(len(texts)):
            end = input_ids[row].argmax().item() + 1  # what follows the end must not matter
            alone = model.encode_text(input_ids[row : row + 1, :end])[0]
            torch.testing.assert_close(texts[row], alone, rtol=1e-4, atol=golden.CLIP[1] * alone.std().item())
