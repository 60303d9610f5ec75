"""Filled bundles give the answers of exported ones; a checkpoint that does not fit is refused by name."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from export import ExportError
from export.templates.fill import fill_bundle
from models import UnknownCheckpoint, UnsafeCheckpoint, WeightsDoNotFit
from models.registry import FAMILIES
from server.bundle import Bundle
from server.contract.manifest import BundleError, read_manifest, sha256_of
from server.runtimes.ort import OrtSession
from tests.export.templates.conftest import CONTAINERS

ROOT = Path(__file__).parents[3]


def filled(tiny, checkpoint, folder):
    return fill_bundle(tiny.stored, checkpoint, folder, licence="MIT", source="hf://somewhere")


@pytest.mark.parametrize(("family", "container"), CONTAINERS)
def test_filled_graphs_put_out_what_exported_graphs_do(family, container, tiny_models, exported_graphs, tmp_path):
    tiny = tiny_models[family]
    manifest = filled(tiny, tiny.checkpoint(container, tmp_path), tmp_path / "bundle")
    assert manifest.template.container == container
    specs = FAMILIES[family].graphs(tiny.loaded)
    assert {artefact.part for artefact in manifest.artefacts} == {spec.name for spec in specs}
    passed_on = {}
    for spec in specs:
        exported = OrtSession(exported_graphs[family] / f"{spec.name}.onnx")
        ours = OrtSession(tmp_path / "bundle" / f"{spec.name}.onnx")
        inputs = {name: value.numpy() for name, value in spec.canary.items()}
        feeds = {name: inputs.get(name, passed_on.get(name)) for name in exported.inputs}
        wanted, found = exported.run(feeds), ours.run(feeds)
        passed_on |= wanted
        for name, value in wanted.items():
            np.testing.assert_allclose(found[name], value, atol=1e-6, err_msg=f"{spec.name}: {name}")


def test_constants_of_the_graphs_need_not_be_stored(tiny_models, tmp_path):
    tiny = tiny_models["grounding_dino"]
    checkpoint = tiny.checkpoint("huggingface", tmp_path)
    whole = filled(tiny, checkpoint, tmp_path / "whole")
    tensors = load_file(checkpoint / "model.safetensors")
    kept = {name: value for name, value in tensors.items() if not name.endswith("relative_position_index")}
    assert len(kept) < len(tensors)
    save_file(kept, checkpoint / "model.safetensors")
    assert filled(tiny, checkpoint, tmp_path / "bundle").artefacts == whole.artefacts


def test_logit_scale_is_the_checkpoint_s(tiny_clip, tmp_path):
    manifest = filled(tiny_clip, tiny_clip.checkpoint("openai", tmp_path), tmp_path / "bundle")
    wanted = tiny_clip.loaded.model.logit_scale.exp().item()
    assert manifest.classification.logit_scale == pytest.approx(wanted, rel=1e-6)
    assert manifest.classification.logit_scale != tiny_clip.stored.template.rules.classification.logit_scale


def test_filled_bundle_serves_and_says_what_vouches_for_it(tiny_clip, tmp_path):
    checkpoint = tiny_clip.checkpoint("huggingface", tmp_path)
    manifest = filled(tiny_clip, checkpoint, tmp_path / "bundle")
    assert read_manifest(tmp_path / "bundle") == manifest
    assert (manifest.certified, manifest.reference, manifest.source) == ("template", None, "hf://somewhere")
    assert manifest.weights_sha256 == sha256_of(checkpoint / "model.safetensors")
    assert manifest.template.sha256 == tiny_clip.stored.sha256
    bundle = Bundle(tmp_path / "bundle")
    bundle.check_canary()
    assert bundle.uncertified == {}
    assert np.linalg.norm(bundle.embed_texts(["a dog"])) == pytest.approx(1, abs=1e-5)


def test_changed_weights_are_noticed(tiny_clip, tmp_path):
    filled(tiny_clip, tiny_clip.checkpoint("openai", tmp_path), tmp_path / "bundle")
    weights = tmp_path / "bundle" / "text_encoder.weights"
    data = bytearray(weights.read_bytes())
    data[100] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BundleError, match=r"text_encoder\.weights is not the file"):
        Bundle(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 2e-2), (torch.bfloat16, 2e-1), (torch.float64, 1e-6)], ids=str
)
def test_weights_of_other_precisions_become_float32(tiny_clip, tmp_path, dtype, tolerance):
    checkpoint = tiny_clip.checkpoint("huggingface", tmp_path)
    filled(tiny_clip, checkpoint, tmp_path / "wanted")
    file = checkpoint / "model.safetensors"
    save_file({name: value.to(dtype) for name, value in load_file(file).items()}, file)
    filled(tiny_clip, checkpoint, tmp_path / "bundle")
    found, wanted = (Bundle(tmp_path / name).embed_texts(["a dog"]) for name in ("bundle", "wanted"))
    np.testing.assert_allclose(found, wanted, atol=tolerance)


@pytest.fixture
def stored(tiny_clip, tmp_path):
    """A Hugging Face folder, and its tensors to be changed."""
    folder = tiny_clip.checkpoint("huggingface", tmp_path)
    return folder, load_file(folder / "model.safetensors")


def refused(tiny, folder, tensors, tmp_path, error=WeightsDoNotFit):
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(error) as caught:
        filled(tiny, folder, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    return caught.value


def test_missing_and_left_over_tensors_are_named(tiny_clip, stored, tmp_path):
    folder, tensors = stored
    del tensors["logit_scale"], tensors["visual_projection.weight"]
    error = refused(tiny_clip, folder, tensors | {"extra": torch.zeros(1)}, tmp_path)
    assert set(error.missing) == {"logit_scale", "visual_projection.weight"}
    assert error.left_over == ("extra",)
    assert str(folder) in str(error)


def test_every_misshapen_tensor_is_named(tiny_clip, stored, tmp_path):
    folder, tensors = stored
    tensors["logit_scale"] = torch.zeros(2)  # which no graph uses
    tensors["text_model.final_layer_norm.bias"] = torch.zeros(33)
    tensors["visual_projection.weight"] = torch.zeros(24, 32, dtype=torch.int64)
    error = refused(tiny_clip, folder, tensors, tmp_path)
    assert len(error.wrong) == 3
    for told in ("logit_scale [2]", "text_model.final_layer_norm.bias [33]", "visual_projection.weight is int64"):
        assert any(told in fault for fault in error.wrong)


def test_weights_that_are_no_numbers_are_refused(tiny_clip, stored, tmp_path):
    folder, tensors = stored
    tensors["text_projection.weight"][0] = torch.nan
    assert "no numbers in text_embeds" in str(refused(tiny_clip, folder, tensors, tmp_path, ExportError))


def test_logit_scale_out_of_bounds_is_refused(tiny_clip, stored, tmp_path):
    folder, tensors = stored
    assert "logit scale is inf" in str(
        refused(tiny_clip, folder, tensors | {"logit_scale": torch.tensor(99.0)}, tmp_path, UnknownCheckpoint)
    )


def test_another_model_is_refused(tiny_models, stored, tmp_path):
    folder, tensors = stored
    error = refused(tiny_models["glip"], folder, tensors, tmp_path, UnknownCheckpoint)
    assert "are not tiny-glip's, in the containers microsoft" in str(error)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"text_config": {"hidden_act": "gelu"}}, "text_config.hidden_act 'gelu', tiny-clip has 'quick_gelu'"),
        ({"text_config_dict": {"num_attention_heads": 4}}, "text_config"),
        ({"model_type": "siglip"}, "model_type 'siglip'"),
        ({"vision_config": None}, "vision_config"),
        ({"vision_config": 5}, "vision_config"),
    ],
)
def test_config_of_another_model_is_refused(tiny_clip, stored, tmp_path, change, told):
    folder, tensors = stored
    config = json.loads((folder / "config.json").read_text())
    for entry, value in change.items():
        config[entry] = {**config[entry], **value} if isinstance(value, dict) and entry in config else value
    (folder / "config.json").write_text(json.dumps(config))
    assert told in str(refused(tiny_clip, folder, tensors, tmp_path, UnknownCheckpoint))


def test_constants_that_the_graph_holds_are_compared(tiny_models, tmp_path):
    tiny = tiny_models["grounding_dino"]
    checkpoint = tiny.checkpoint("idea", tmp_path)
    data = torch.load(checkpoint)
    name = next(name for name in data["model"] if name.endswith("1.blocks.0.attn.relative_position_index"))
    data["model"][name] = data["model"][name].flip(0)
    torch.save(data, checkpoint)
    with pytest.raises(WeightsDoNotFit, match="relative_position_index has other values"):
        filled(tiny, checkpoint, tmp_path / "bundle")


def test_hostile_checkpoint_runs_nothing(tiny_models, tmp_path):
    class Hostile:
        def __reduce__(self):
            return Path.mkdir, (tmp_path / "executed",)

    torch.save({"model": {"a": torch.zeros(1), "b": Hostile()}}, tmp_path / "weights.pth")
    with pytest.raises(UnsafeCheckpoint, match="nothing was executed"):
        filled(tiny_models["glip"], tmp_path / "weights.pth", tmp_path / "bundle")
    assert not (tmp_path / "executed").exists()


def test_filling_imports_neither_torch_nor_onnx():
    code = (
        "import sys, export.templates.fill, export.templates.template, export.pull, models.hub\n"
        "print([m for m in ('torch', 'onnx', 'onnxscript', 'transformers', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
