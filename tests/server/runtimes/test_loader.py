"""An artefact that does not open gives way to the next: another engine, the graph on the GPU, the graph elsewhere."""

import numpy as np
import pytest

from server.bundle import Bundle
from server.contract.manifest import BundleError, read_manifest, sha256_of, write_manifest
from server.registry.model_cache import BUNDLED
from server.registry.model_registry import open_bundles
from server.runtimes.device import AUTO, Device
from server.settings import Settings
from tests.server.engine_bundles import with_engines
from tests.server.fake_provider import CPU, CUDA, Provider
from tests.server.fake_trt import install_trt

CLIP, ENGINE = BUNDLED / "clip-mini", "image_encoder.tensorrt.engine"
IMAGES = [np.random.default_rng(place).random((3, 64, 64), np.float32) for place in range(2)]


@pytest.fixture
def folder(monkeypatch, binding, tmp_path):
    """A bundle with an engine that fits by its record."""
    install_trt(monkeypatch, binding)
    return with_engines(CLIP, tmp_path / "clip", parts=["image_encoder"])


def replace_bytes(folder, file, data):
    """Other bytes for an artefact, and a manifest that names and certifies them."""
    (folder / file).write_bytes(data)
    sha256, manifest, artefacts = sha256_of(folder / file), read_manifest(folder), []
    for artefact in manifest.artefacts:
        if artefact.file == file:
            proof = artefact.certificate.model_copy(update={"artefact_sha256": sha256})
            artefact = artefact.model_copy(update={"sha256": sha256, "certificate": proof})
        artefacts.append(artefact)
    write_manifest(folder, manifest.model_copy(update={"artefacts": tuple(artefacts)}))


@pytest.mark.parametrize("rtx", [False, True], ids=["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("how", ["gives nothing", "raises", "is damaged"])
def test_engine_that_does_not_deserialise_gives_way_to_the_graph(monkeypatch, binding, tmp_path, caplog, rtx, how):
    install_trt(monkeypatch, binding, rtx=rtx)
    runtime = "tensorrt-rtx" if rtx else "tensorrt"
    folder = with_engines(CLIP, tmp_path / "c", runtime=runtime, parts=["image_encoder"])

    def deserialise(runtime, data):
        if how == "raises":
            raise RuntimeError("the driver is too old")

    if how == "is damaged":
        replace_bytes(folder, f"image_encoder.{runtime}.engine", b"no engine")
    else:
        monkeypatch.setattr("tests.server.fake_trt._Runtime.deserialize_cuda_engine", deserialise)
    (bundle,) = open_bundles(Settings(bundle=(folder,), threads=1))
    (reason,) = bundle.refused.values()
    assert ("the driver is too old" in reason) is (how == "raises")
    assert f"image_encoder.{runtime}.engine is not used: {reason}" in caplog.text
    assert bundle.artefacts["image_encoder"].runtime == "onnxruntime"
    np.testing.assert_array_equal(bundle.embed_images(IMAGES), Bundle(CLIP, threads=1).embed_images(IMAGES))


def test_next_engine_comes_before_the_graph(folder):
    manifest = read_manifest(folder)
    first = manifest.artefacts[-1].model_copy(update={"file": "first.engine"})
    write_manifest(folder, manifest.model_copy(update={"artefacts": (first, *manifest.artefacts)}))
    replace_bytes(folder, "first.engine", b"no engine")
    bundle = Bundle(folder, device=AUTO, threads=1)
    assert bundle.artefacts["image_encoder"].file == ENGINE
    assert list(bundle.refused) == ["first.engine"]


@pytest.mark.parametrize(("loads", "provider"), [(True, CUDA), (False, CPU)])
def test_graph_takes_the_place_on_the_gpu_where_that_can_be_else_on_the_processor(
    monkeypatch, binding, folder, loads, provider
):
    Provider(monkeypatch, binding, loads=loads)
    replace_bytes(folder, ENGINE, b"no engine")
    bundle = Bundle(folder, device=AUTO, threads=1)
    assert bundle.providers == {"image_encoder": provider, "text_encoder": provider}
    assert "cannot be deserialised: magicTag failed" in bundle.refused[ENGINE]
    assert bundle.fallbacks.keys() == (set() if loads else {"image_encoder", "text_encoder"})
    np.testing.assert_allclose(
        bundle.embed_images(IMAGES), Bundle(CLIP, threads=1).embed_images(IMAGES), rtol=0, atol=1e-6
    )


def test_demanded_gpu_that_nothing_runs_on_is_refused_with_every_reason(monkeypatch, binding, folder):
    Provider(monkeypatch, binding, loads=False)
    replace_bytes(folder, ENGINE, b"no engine")
    with pytest.raises(
        BundleError, match=r"no usable image_encoder.*magicTag.*could not load its CUDA provider"
    ) as refused:
        Bundle(folder, device=Device("cuda:0"))
    assert "--allow-uncertified" not in str(refused.value)  # which would change nothing


def test_file_that_is_not_the_one_its_record_names_gives_way_to_none(folder):
    (folder / ENGINE).write_bytes(b"another")
    with pytest.raises(BundleError, match="its SHA-256 differs"):
        Bundle(folder, device=AUTO)
