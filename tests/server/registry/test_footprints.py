"""Bundles that do not fit in memory are refused before they are served; GPUs are stand-ins with real sizes."""

import re
import shutil

import pytest
from fastapi.testclient import TestClient

from server.app import create_app
from server.contract.manifest import read_manifest, write_manifest
from server.memory.memory_budget import OverBudget
from server.memory.pool import PoolExhausted
from server.registry.footprints import host_budget, plan_bundle, plan_folder, with_peaks, with_second_image
from server.registry.model_cache import BUNDLED
from server.registry.model_registry import ModelRegistry, open_bundles
from server.registry.warmup import Peaks
from server.settings import Settings
from server.telemetry.metrics import Metrics
from tests.server.engine_bundles import with_engines
from tests.server.fake_provider import Provider
from tests.server.fake_trt import install_trt
from tests.server.fakes import FakeEncoder

CLIP, DETECTOR = BUNDLED / "clip-mini", BUNDLED / "grounding-dino-mini"
MIB = 2**20
BLOCK = 6 * MIB  # of each engine's first profile; of the second it is twice as much


@pytest.fixture
def measured(monkeypatch):
    """Pretends a process of 100 MiB, and what a warm-up measures."""
    monkeypatch.setattr("server.registry.footprints.resident_bytes", lambda: 100 * MIB)

    def pretend(image, text=0):
        monkeypatch.setattr("server.registry.model_registry.warm_up", lambda bundle: Peaks(image, text))

    return pretend


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


def load(*bundles, **settings):
    registry = ModelRegistry(Settings(**settings), Metrics())
    try:
        registry.load(bundles)
    finally:
        registry.close()
    return registry


def by_record(folder, **settings):
    return plan_folder(folder, read_manifest(folder), Settings(**settings)).gpu


def file_bytes(folder, pattern):
    return sum(file.stat().st_size for file in folder.glob(pattern))


def test_plan_is_of_the_largest_bucket_and_batch(detector, encoder):
    for_detector, for_encoder = (plan_bundle(bundle, Settings(max_batch=3)) for bundle in (detector, encoder))
    assert for_detector.bucket == "3 images of 32x64 with 64 tokens"
    assert for_detector.activations_bytes == 3 * (32 * 64 * (3 * 4 + 1) + 64 * 768 * 4)
    assert for_encoder.bucket == "3 images of 16x16"
    assert for_encoder.activations_bytes == 3 * (16 * 16 * 3 * 4)
    assert (for_detector.weights_bytes, for_detector.measured) == (1000, False)


def test_buffers_are_whole_blocks_of_the_pool(detector):
    plan = plan_bundle(detector, Settings(max_batch=3))
    assert plan.image_buffers_bytes == 24576 + 4096 + 196608
    assert plan.buffers_bytes == 81920 + 8192 + 655360, "in quarters of a power of two"


def test_bundle_may_ask_for_fewer_images_than_the_setting(detector):
    assert plan_bundle(detector, Settings(max_batch=99)).batch == detector.manifest.buckets.max_batch


def test_activations_grow_with_the_batch_of_images_and_of_texts(detector, encoder):
    for_detector, for_encoder = (
        with_peaks(plan_bundle(bundle, Settings()), bundle.manifest, Peaks(image=MIB, text=7))
        for bundle in (detector, encoder)
    )
    assert for_detector.activations_bytes == 8 * MIB + 7, "a prompt is encoded on its own"
    assert for_encoder.activations_bytes == 8 * MIB + 64 * 7
    assert for_detector.measured is for_encoder.measured is True


def test_plan_stays_an_estimate_where_nothing_can_be_measured(detector):
    plan = plan_bundle(detector, Settings())
    assert with_peaks(plan, detector.manifest, None) == plan


def test_measurement_below_the_inputs_is_not_believed(detector):
    plan = plan_bundle(detector, Settings())
    assert with_peaks(plan, detector.manifest, Peaks(0, 0)).activations_bytes == plan.activations_bytes


def test_refusal_counts_the_process_and_the_bundles_before(detector, encoder, measured):
    measured(image=10 * MIB)
    with pytest.raises(OverBudget, match="fake-detector does not fit in host memory: ") as refusal:
        load(encoder, detector, memory_limit_bytes=250 * MIB, prompt_cache_bytes=50 * MIB, pool_bytes=MIB)
    assert (
        "8 images of 32x64 with 64 tokens (measured) 80.0 MiB, its weights 0.0 MiB, bundles before it 80.0 MiB, the"
        " pool 1.0 MiB, the prompt cache 50.0 MiB, the process 100.0 MiB make 311.0 MiB, the limit is 250.0 MiB."
    ) in str(refusal.value)


def test_refused_batch_names_one_that_fits(detector, measured):
    measured(image=10 * MIB)
    fitting = {"memory_limit_bytes": 155 * MIB, "prompt_cache_bytes": 0, "pool_bytes": MIB}
    with pytest.raises(OverBudget, match="To make room, set max_batch to 5, "):
        load(detector, **fitting)
    load(detector, **fitting, max_batch=5)
    with pytest.raises(OverBudget):
        load(detector, **fitting, max_batch=6)


def test_pool_that_holds_no_image_is_refused_with_the_least_that_does(detector):
    with pytest.raises(OverBudget, match="pool_bytes=8192 does not hold one image of fake-detector") as refusal:
        load(detector, pool_bytes=8192)
    least = int(re.search(r"at least (\d+)", str(refusal.value))[1])
    load(detector, pool_bytes=least)


def test_failed_budget_serves_nothing_and_starts_no_worker(detector, encoder):
    registry = ModelRegistry(Settings(memory_limit_bytes=MIB), Metrics())
    with pytest.raises(OverBudget):
        registry.load([detector, encoder])
    assert (registry.models, registry.ready, detector.runs) == ((), False, [])
    assert isinstance(registry.failure, OverBudget)


def test_bundles_are_refused_before_they_are_loaded(monkeypatch):
    def load(*_, **__):
        raise AssertionError("nothing is loaded")

    monkeypatch.setattr("server.registry.model_registry.Bundle", load)
    refusal = r"grounding-dino-mini does not fit in host memory: .* \(estimated from its inputs\)"
    with pytest.raises(OverBudget, match=refusal):
        open_bundles(Settings(bundle=(DETECTOR,), memory_limit_bytes=MIB))


def test_limit_is_the_cgroups_unless_set(monkeypatch):
    monkeypatch.setattr("server.registry.footprints.memory_limit", lambda: 5 * MIB)
    monkeypatch.setattr("server.registry.footprints.resident_bytes", lambda: None)
    settings = {"prompt_cache_bytes": 0}
    assert host_budget(Settings(**settings)).limit_bytes == 5 * MIB
    assert host_budget(Settings(**settings, memory_limit_bytes=7)).limit_bytes == 7
    monkeypatch.setattr("server.registry.footprints.memory_limit", lambda: None)
    assert host_budget(Settings(**settings)).limit_bytes is None


def test_bundled_models_are_measured_and_take_more_than_their_inputs():
    registry = load(*open_bundles(Settings()))
    for served in registry.models:
        plan, found = plan_bundle(served.bundle, Settings()), served.footprint
        assert found.weights_bytes == file_bytes(served.bundle.folder, "*.onnx")
        if found.measured and served.name == "grounding-dino-mini":
            assert 3 * plan.activations_bytes < found.activations_bytes < 100 * plan.activations_bytes


def test_models_shows_the_budget(start, encoder):
    answer = start(prompt_cache_bytes=MIB, memory_limit_bytes=2**40).get("/models").json()
    memory, models = answer["memory"], [model["memory"] for model in answer["models"]]
    assert models[0]["bucket"] == "8 images of 32x64 with 64 tokens"
    assert models[1]["weights_bytes"] == encoder.weights_bytes
    assert memory["limit_bytes"] == 2**40
    shared = memory["process_bytes"] + memory["pool_bytes"] + memory["prompt_cache_bytes"]
    assert memory["total_bytes"] == shared + sum(m["weights_bytes"] + m["activations_bytes"] for m in models)
    assert all(isinstance(model["measured"], bool) for model in models)


def test_without_warm_up_activations_are_an_estimate(start):
    models = start(warm_up="none").get("/models").json()["models"]
    assert [model["memory"]["measured"] for model in models] == [False, False]


def test_server_that_does_not_fit_says_so_and_ends(monkeypatch, capsys, tmp_path):
    from server.__main__ import main

    monkeypatch.setattr("server.predictor.open_bundles", lambda settings, task: [FakeEncoder(tmp_path)])
    assert main(["serve", "--port", "0", "--memory-limit-bytes", "1000"]) == 2
    assert "openset serve: fake-encoder does not fit in host memory: 8 images of 16x16" in capsys.readouterr().err


def test_records_tell_what_a_bundle_will_have_on_the_gpu_before_it_is_opened(engines):
    clip, detector = map(by_record, engines)
    assert (clip.device, clip.block_bytes, clip.bucket) == ("cuda:0", 2 * BLOCK, "8 images of 224x224")
    assert clip.weights_bytes == file_bytes(engines[0], "*.engine")
    assert detector.weights_bytes == file_bytes(engines[1], "*.engine")
    for folder, told in zip(engines, (clip, detector), strict=True):
        (opened,) = open_bundles(Settings(bundle=(folder,), threads=1))
        assert plan_bundle(opened, Settings()).gpu == told


def test_graphs_count_where_a_provider_runs_them_and_nothing_on_the_processor(monkeypatch, binding):
    assert by_record(CLIP) is None
    Provider(monkeypatch, binding)
    assert by_record(CLIP).weights_bytes == file_bytes(CLIP, "*.onnx")
    assert by_record(CLIP, device="cpu") is None


def test_float32_graphs_count_where_those_in_int8_do_not_run(monkeypatch, binding, tmp_path):
    Provider(monkeypatch, binding)
    folder = shutil.copytree(CLIP, tmp_path / "clip")
    manifest = read_manifest(folder)
    smaller = []
    for graph in manifest.artefacts:
        (folder / f"int8.{graph.file}").write_bytes(b"")
        smaller.append(graph.model_copy(update={"precision": "int8", "file": f"int8.{graph.file}"}))
    write_manifest(folder, manifest.model_copy(update={"artefacts": (*smaller, *manifest.artefacts)}))
    assert by_record(folder).weights_bytes == file_bytes(CLIP, "*.onnx")


def test_gpu_that_does_not_answer_is_left_to_the_opening_of_the_artefacts(monkeypatch, binding):
    Provider(monkeypatch, binding)
    binding.failing["cudaSetDevice"] = 100
    assert by_record(CLIP) is None


@pytest.mark.parametrize("limit", ["set", "free"])
def test_bundles_that_do_not_fit_on_the_gpu_are_refused_before_they_are_loaded(engines, binding, monkeypatch, limit):
    monkeypatch.setattr("server.registry.model_registry.Bundle", lambda *_, **__: pytest.fail("nothing is loaded"))
    needed = 2 * BLOCK + MIB  # the block alone, and next to nothing
    if limit == "free":
        binding.device_bytes = needed
    settings = Settings(bundle=engines, gpu_memory_bytes=needed if limit == "set" else 0)
    with pytest.raises(OverBudget, match=r"(clip|dino)-mini does not fit in cuda:0 memory: .*from its inputs.*13\.0"):
        open_bundles(settings)


def test_second_image_is_what_a_batch_grows_by(binding, engines):
    (bundle,) = open_bundles(Settings(bundle=engines[:1], threads=1))
    plan, alone = (plan_bundle(bundle, Settings(max_batch=batch)) for batch in (8, 1))
    taken = []

    def run(count):
        taken.extend(bundle.gpu.cuda.allocate(100 * MIB, 0) for _ in range(count))

    measured = with_second_image(plan, bundle.gpu, run).gpu
    assert (measured.batch_bytes, measured.measured) == (8 * 200 * MIB, True)
    assert with_second_image(alone, bundle.gpu, run) == alone

    def fail(count):
        raise PoolExhausted("no room")

    assert with_second_image(plan, bundle.gpu, fail) == plan
    found = with_second_image(plan, bundle.gpu, lambda count: None).gpu
    assert found.batch_bytes == plan.gpu.batch_bytes, "less than the inputs is not believed"


def test_batch_that_only_the_warm_up_shows_to_be_too_large_stops_the_start(engines, monkeypatch):
    settings = Settings(bundle=engines[:1], threads=1, warm_up="largest", max_batch=4, gpu_memory_bytes=300 * MIB)
    bundles = open_bundles(settings)
    monkeypatch.setattr(
        "server.registry.model_registry.largest_batches",
        lambda bundle: lambda count: bundle.gpu.cuda.allocate(100 * MIB, 0),
    )
    with pytest.raises(OverBudget, match=r"clip-mini does not fit in cuda:0 memory: .*\(measured\)"):
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
    assert by_record(engines[0], device="cuda:0", gpu_memory_bytes=MIB).limit_bytes == MIB
