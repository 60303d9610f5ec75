"""Graphs of CLIP: unit-length embeddings, and the image sizes they take."""

import pytest
import torch

from export import clip
from models import registry


@pytest.fixture(scope="module")
def vit(save_checkpoint):
    return registry.load(save_checkpoint("clip"))


def spec(checkpoint, name):
    return next(spec for spec in clip.graphs(checkpoint) if spec.name == name)


def test_embeddings_are_of_unit_length(vit):
    for each in clip.graphs(vit):
        embeddings = each.module(*each.inputs.values())
        torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_image_size_is_open_only_where_no_position_is_learned(vit, save_checkpoint):
    average = registry.load(save_checkpoint("clip-average"))
    assert set(spec(vit, "image_encoder").axes["pixel_values"]) == {0}
    assert set(spec(average, "image_encoder").axes["pixel_values"]) == {0, 2, 3}
