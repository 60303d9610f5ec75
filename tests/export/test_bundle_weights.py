"""Weights read back from bundles: the model computes what the bundle does, and can be trained further."""

import numpy as np
import pytest
import torch

from export import ExportError
from export.bundle import export_bundle
from export.bundle_weights import load_bundle
from models import registry
from server.contract.manifest import read_manifest, write_manifest
from server.registry.model_cache import BUNDLED


@pytest.mark.parametrize(
    ("name", "weights"),
    [("clip-words", "int8"), ("detector", "fp16"), ("glip-swin", "fp32")],
)
def test_model_of_a_bundle_is_the_one_that_was_exported(save_checkpoint, tmp_path, name, weights):
    checkpoint = save_checkpoint(name)
    export_bundle(checkpoint, tmp_path / "bundle", weights=weights)
    original, read = registry.load(checkpoint), registry.load(tmp_path / "bundle")
    assert (read.family, read.config, read.container) == (original.family, original.config, "bundle")
    ours, theirs = read.model.state_dict(), original.model.state_dict()
    assert ours.keys() == theirs.keys()
    norms = {key for key in ours if key.endswith(("running_mean", "running_var"))}
    stored_exactly = [
        key for key, value in theirs.items() if value.ndim < 2 and not norms & {f"{key.rpartition('.')[0]}.running_var"}
    ]
    assert stored_exactly
    if weights == "fp32":
        for key in stored_exactly:
            torch.testing.assert_close(ours[key], theirs[key], rtol=1e-5, atol=1e-6)
    with torch.inference_mode():
        pixels = torch.rand(1, 3, 64, 64)
        outputs = zip(_encoded(read.model, pixels), _encoded(original.model, pixels), strict=True)
    for mine, other in outputs:
        assert np.corrcoef(mine.ravel(), other.ravel())[0, 1] > 0.999
    assert read.serving["preprocessing"] == read_manifest(tmp_path / "bundle").preprocessing.model_dump(mode="json")


def _encoded(model, pixels):
    found = model.encode_image(pixels)
    return [one.numpy() for one in (found if isinstance(found, tuple | list) else [found])]


@pytest.mark.parametrize("name", ["clip-mini", "grounding-dino-mini", "glip-mini"])
def test_bundled_model_is_readable_as_a_start(name):
    """Its canary is compared in `load_bundle`."""
    manifest = read_manifest(BUNDLED / name)
    read = registry.load(BUNDLED / name)
    assert (read.family, read.variant, read.weights_sha256) == (manifest.family, name, manifest.weights_sha256)
    tower = read.model.image_tower.backbone if manifest.family == "clip" else read.model.backbone
    assert sum(value.numel() for value in tower.parameters()) > 2.5e6
    assert read.serving["preprocessing"]["mean"] == manifest.preprocessing.model_dump(mode="json")["mean"]


def test_bundle_without_the_sizes_of_its_model_is_refused(save_checkpoint, tmp_path):
    export_bundle(save_checkpoint("clip"), tmp_path / "bundle")
    manifest = read_manifest(tmp_path / "bundle")
    write_manifest(tmp_path / "bundle", manifest.model_copy(update={"config": None}))
    with pytest.raises(ExportError, match="has no config: export the bundle anew"):
        load_bundle(tmp_path / "bundle")
