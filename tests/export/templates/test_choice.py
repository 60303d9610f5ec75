"""The template of a checkpoint is found by its tensors."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.templates import template as templates
from export.templates.choice import template_for
from export.templates.make import ModelSpec, make_template
from models import UnknownCheckpoint
from models.clip.config import with_activation
from tests.export.templates.conftest import CONTAINERS, QUIET
from tests.models.published_tensors import published_containers, write_published


@pytest.fixture
def shipped(tiny_models, tmp_path, monkeypatch):
    """The small templates, as those that ship."""
    folder = tmp_path / "shipped"
    folder.mkdir()
    for family, tiny in tiny_models.items():
        shutil.copyfile(tiny.file, folder / f"{family}.zip")
    monkeypatch.setattr(templates, "PUBLISHED", folder)
    return folder


@pytest.mark.parametrize(("family", "container"), CONTAINERS)
def test_checkpoint_of_any_container_finds_its_template(family, container, tiny_models, shipped, tmp_path):
    checkpoint = tiny_models[family].checkpoint(container, tmp_path)
    assert template_for(checkpoint).sha256 == tiny_models[family].stored.sha256


@pytest.mark.parametrize("container", ["open_clip", "huggingface"])
def test_activation_beside_the_weights_chooses_among_equal_shapes(container, tiny_clip, shipped, tmp_path):
    config = with_activation(tiny_clip.spec.config, "gelu")
    spec = ModelSpec("tiny-clip-gelu", "clip", "tiny", config)
    make_template(spec, shipped / "gelu.zip", certify=False, progress=QUIET)
    assert published_containers("clip", config) == ("open_clip", "huggingface")
    assert template_for(write_published(spec.synthetic(seed=5), container, tmp_path)).template.name == spec.name


def test_checkpoint_with_a_tensor_of_another_size_finds_none(tiny_clip, shipped, tmp_path):
    checkpoint = tiny_clip.checkpoint("huggingface", tmp_path)
    tensors = load_file(checkpoint / "model.safetensors")
    save_file(tensors | {"visual_projection.weight": torch.zeros(3, 3)}, checkpoint / "model.safetensors")
    with pytest.raises(UnknownCheckpoint, match=r"the nearest is .*visual_projection\.weight \[3, 3\]"):
        template_for(checkpoint)


def test_checkpoint_of_no_family_finds_none(shipped, tmp_path):
    save_file({"weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UnknownCheckpoint, match="it shares no tensor with any of them"):
        template_for(tmp_path / "model.safetensors")
