"""Bundles that do not fit in a GPU are refused with the bucket and the way out; on stand-ins with real sizes."""

import re

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.contract.manifest import read_manifest, write_manifest
from server.memory.pool import PoolExhausted
from server.registry.budget import OverBudget
from server.registry.gpu_budget import (
    GpuFootprint,
    OnGpu,
    gpu_refusal,
    gpu_total,
    measured_on_gpu,
    on_gpu,
    on_gpu_by_record,
)
from server.registry.model_registry import BUNDLED, ModelRegistry, open_bundles
from server.runtimes.device import AUTO, PROCESSOR, Device
from server.settings import Settings
from server.telemetry.metrics import Metrics
from tests.server.engine_bundles import with_engines
from tests.server.fake_provider import Provider
from tests.server.fake_trt import install_trt

CLIP, DETECTOR = BUNDLED / "clip-mini", BUNDLED / "grounding-dino-mini"
MIB = 2**20
BLOCK = 6 * MIB  # of each engine's first profile; of the second it is twice as much


def footprint(name="a", *, weights=0, block=0, image=0, batch=8, limit=100 * MIB, measured=True):
    there = OnGpu("cuda:0", limit, weights, block)
    return GpuFootprint(name, f"{batch} images of 800x1333", batch, there, image, measured)


@pytest.fixture
def engines(monkeypatch, binding, tmp_path):
    """The folders of two bundles of engines, whose records tell what they compute in."""
    install_trt(monkeypatch, binding)
    folders = [with_engines(source, tmp_path / source.name, activations=BLOCK) for source in (CLIP, DETECTOR)]
    for folder in folders:
        manifest = read_manifest(folder)
        told = []
        for artefact in manifest.artefacts:
            if artefact.engine:
                record = artefact.engine.model_copy(update={"activation_bytes": 2 * BLOCK})
                artefact = artefact.model_copy(update={"engine": record})
            told.append(artefact)
        write_manifest(folder, manifest.model_copy(update={"artefacts": tuple(told)}))
    return folders


def by_record(folder, device=AUTO):
    return on_gpu_by_record(folder, read_manifest(folder), device, allow_uncertified=False)


def file_bytes(folder, pattern):
    return sum(file.stat().st_size for file in folder.glob(pattern))


def test_engines_of_all_bundles_share_one_block_as_large_as_the_largest():
    footprints = [footprint(block=30, weights=1), footprint(block=50, weights=2), footprint(block=40, weights=4)]
    assert gpu_total(footprints) == 7 + 50
    assert gpu_total([]) == 0


def test_batches_take_their_images_and_weights_add_up():
    assert gpu_total([footprint(weights=100, image=3, batch=4), footprint(weights=10, image=5, batch=1)]) == 127


def test_bundle_that_passes_the_limit_is_named_with_its_bucket_and_the_way_out():
    fits = footprint("first", weights=20 * MIB, image=MIB, batch=4)
    large = footprint("second", weights=30 * MIB, block=20 * MIB, image=8 * MIB)
    assert gpu_refusal([fits]) is None
    assert gpu_refusal([fits, large]) == (
        "second does not fit in the memory of cuda:0: 8 images of 800x1333 (measured) 64.0 MiB, its weights 30.0 MiB,"
        " the block that engines compute in 20.0 MiB, bundles before it 24.0 MiB make 138.0 MiB, the limit is 100.0"
        " MiB. To mend it set max_batch to 3, build engines of fewer or smaller shapes, serve fewer bundles, free"
        " memory of the GPU or raise gpu_memory_bytes, or set device to cpu"
    )


def test_batch_that_a_refusal_names_fits():
    large = footprint(weights=30 * MIB, image=9 * MIB)
    fitting = int(re.search(r"max_batch to (\d+)", gpu_refusal([large]))[1])
    assert gpu_refusal([footprint(weights=30 * MIB, image=9 * MIB, batch=fitting)]) is None
    assert gpu_refusal([footprint(weights=30 * MIB, image=9 * MIB, batch=fitting + 1)])
    assert "max_batch" not in gpu_refusal([footprint(weights=99 * MIB, image=9 * MIB, batch=1)])


def test_records_tell_what_a_bundle_will_have_there_before_it_is_opened(engines):
    clip, detector = map(by_record, engines)
    assert (clip.device, clip.block) == ("cuda:0", 2 * BLOCK)
    assert clip.weights == file_bytes(engines[0], "*.engine")
    assert detector.weights == file_bytes(engines[1], "*.engine")
    for folder, told in zip(engines, (clip, detector), strict=True):
        (opened,) = open_bundles(Settings(bundle=(folder,), threads=1))
        assert on_gpu(opened) == told


def test_graphs_count_where_a_provider_runs_them_and_nothing_on_the_processor(monkeypatch, binding):
    assert by_record(CLIP) is None
    Provider(monkeypatch, binding)
    assert by_record(CLIP).weights == file_bytes(CLIP, "*.onnx")
    assert by_record(CLIP, PROCESSOR) is None


def test_gpu_that_does_not_answer_is_left_to_who_opens_the_artefacts(monkeypatch, binding):
    Provider(monkeypatch, binding)
    binding.failing["cudaSetDevice"] = 100
    assert by_record(CLIP) is None


@pytest.mark.parametrize("limit", ["set", "free"])
def test_bundles_that_do_not_fit_are_refused_before_they_are_loaded(engines, binding, monkeypatch, limit):
    monkeypatch.setattr("server.registry.model_registry.Bundle", lambda *_, **__: pytest.fail("nothing is loaded"))
    needed = 2 * BLOCK + MIB  # the block alone, and next to nothing
    if limit == "free":
        binding.device_bytes = needed
    settings = Settings(bundle=engines, gpu_memory_bytes=needed if limit == "set" else 0)
    with pytest.raises(
        OverBudget, match=r"(clip|dino)-mini does not fit in the memory of cuda:0: .*its inputs alone.*13\.0"
    ):
        open_bundles(settings)


def test_second_image_is_what_a_batch_grows_by(binding, engines):
    (bundle,) = open_bundles(Settings(bundle=engines[:1], threads=1))
    plan = footprint(image=5, measured=False)
    taken = []

    def run(count):
        taken.extend(bundle.gpu.cuda.allocate(100 * MIB, 0) for _ in range(count))

    measured = measured_on_gpu(plan, bundle.gpu, run)
    assert (measured.image, measured.measured) == (200 * MIB, True)
    assert measured_on_gpu(footprint(batch=1, measured=False), bundle.gpu, run).measured is False

    def fail(count):
        raise PoolExhausted("no room")

    assert measured_on_gpu(plan, bundle.gpu, fail) == plan
    assert measured_on_gpu(plan, bundle.gpu, lambda count: None).image == 5, "less than the inputs is not believed"


def test_batch_that_only_the_warm_up_shows_to_be_too_large_stops_the_start(engines, monkeypatch):
    settings = Settings(bundle=engines[:1], threads=1, warm_up="largest", max_batch=4, gpu_memory_bytes=300 * MIB)
    bundles = open_bundles(settings)
    monkeypatch.setattr(
        "server.registry.model_registry.largest_batches",
        lambda bundle: lambda count: bundle.gpu.cuda.allocate(100 * MIB, 0),
    )
    with pytest.raises(OverBudget, match=r"clip-mini does not fit in the memory of cuda:0: .*\(measured\)"):
        ModelRegistry(settings, Metrics()).load(bundles)


def test_models_shows_the_gpus_budget_beside_the_hosts(engines):
    settings = Settings(bundle=engines, threads=1, warm_up="largest", max_batch=4)
    with TestClient(create_app(settings, open_bundles(settings))) as client:
        answer = client.get("/models").json()
        gpu, models = answer["memory"]["gpu"], [model["memory"]["gpu"] for model in answer["models"]]
        assert (gpu["device"], gpu["block_bytes"], gpu["limit_bytes"]) == ("cuda:0", 2 * BLOCK, 2**30)
        assert gpu["total_bytes"] == 2 * BLOCK + sum(model["weights_bytes"] + model["batch_bytes"] for model in models)
        assert all(model["measured"] for model in models)
        assert [model["weights_bytes"] for model in models] == [file_bytes(folder, "*.engine") for folder in engines]


def test_models_shows_no_gpu_on_the_processor(client):
    answer = client.get("/models").json()
    assert answer["memory"]["gpu"] is None
    assert {model["memory"]["gpu"] for model in answer["models"]} == {None}


def test_limit_of_a_demanded_device_is_its_own(engines, binding):
    there = by_record(engines[0], Device("cuda:0", memory_bytes=MIB))
    assert there.limit == MIB
