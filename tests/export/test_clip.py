import pytest
import torch

from export import clip
from models import registry


@pytest.fixture(scope="module")
def vit(save_checkpoint):
    return registry.load(save_checkpoint("clip"))


def part(checkpoint, name):
    return next(part for part in clip.parts(checkpoint) if part.name == name)


def test_embeddings_are_of_unit_length(vit):
    for each in clip.parts(vit):
        embeddings = each.module(*each.inputs.values())
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_rules_are_those_of_the_official_code(vit):
    rules = clip.rules(vit)
    assert (rules.preprocessing.resize, rules.preprocessing.resample) == ("shorter_crop", "bicubic")
    assert rules.preprocessing.rgb_after_resize
    assert rules.preprocessing.shorter == 32
    assert rules.text.max_tokens == 77
    assert rules.classification.logit_scale == pytest.approx(vit.model.logit_scale.exp().item())


def test_image_size_is_open_only_where_no_position_is_learned(vit, save_checkpoint):
    average = registry.load(save_checkpoint("clip-average"))
    assert set(part(vit, "image_encoder").axes["pixel_values"]) == {0}
    assert set(part(average, "image_encoder").axes["pixel_values"]) == {0, 2, 3}
