"""The template of a checkpoint is found by its tensors."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from export.templates import template as templates
from export.templates.choice import template_for
from export.templates.make import ModelSpec, make_template
from models import UnknownCheckpoint
from models.clip.config import CLIP_CONFIGS, with_activation
from models.clip.model import Clip
from models.clip.weights import published_tables
from tests.export.templates.conftest import CONTAINERS, QUIET
from tests.models.published_tensors import published_containers, published_tensors, write_published


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


METACLIP_L14 = {
    "projection_dim": 768,
    "text_config": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    "vision_config": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24,
        "patch_size": 14,
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("variant", "config", "name"),
    [
        ("ViT-B/32", {"projection_dim": 512, "text_config": {"heads": 8, "layers": 12}}, "clip-vit-base-patch32"),
        ("ViT-B/16", {"projection_dim": 512, "vision_config": {"patch_size": 16}}, "clip-vit-base-patch16"),
        ("ViT-L/14", METACLIP_L14, "clip-vit-large-patch14"),
    ],
)
def test_metaclip_is_found_among_the_templates_that_ship(tmp_path, variant, config, name):
    """Configurations are those of facebook/metaclip-*, which leave out what is transformers' default."""
    with torch.device("meta"):
        model = Clip(CLIP_CONFIGS[variant])
    table = published_tables(CLIP_CONFIGS[variant])["huggingface"]
    write_sparse(tmp_path / "model.safetensors", published_tensors(model, table))
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "clip"}))
    crop = {"height": 224, "width": 224}
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"crop_size": crop, "size": {"shortest_edge": 224}, "image_processor_type": "CLIPImageProcessor"})
    )
    assert template_for(tmp_path).template.name == name


def write_sparse(file, tensors):
    """Write float32 tensors of these shapes that are zero, and take no space on the disk."""
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + 4 * math.prod(tensor.shape)
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    file.write_bytes(len(head).to_bytes(8, "little") + head)
    with file.open("r+b") as opened:
        opened.truncate(8 + len(head) + end)
