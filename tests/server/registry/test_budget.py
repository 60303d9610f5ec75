"""Bundles that do not fit in memory are refused before they are served, with the bucket and the way out."""

import re

import pytest

from server.registry.budget import Budget, OverBudget, with_peaks
from server.registry.model_registry import BUNDLED, ModelRegistry, open_bundles
from server.registry.warmup import Peaks
from server.settings import Settings
from server.telemetry.metrics import Metrics
from tests.server.fakes import FakeEncoder

MIB = 2**20


@pytest.fixture
def measured(monkeypatch):
    """Pretends a process of 100 MiB, and what a warm-up measures."""
    monkeypatch.setattr("server.registry.budget.resident_bytes", lambda: 100 * MIB)

    def pretend(image, text=0):
        monkeypatch.setattr("server.registry.model_registry.warm_up", lambda bundle: Peaks(image, text))

    return pretend


def budget(**changes):
    return Budget(**{"limit": None, "process": 0, "prompt_cache": 0, "pool": 0, "max_batch": 8} | changes)


def plans(of, *bundles):
    return [of.plan(bundle.manifest, bundle.weights_bytes) for bundle in bundles]


def load(*bundles, **settings):
    registry = ModelRegistry(Settings(**settings), Metrics())
    try:
        registry.load(bundles)
    finally:
        registry.close()
    return registry


def test_plan_is_of_the_largest_bucket_and_batch(detector, encoder):
    for_detector, for_encoder = plans(budget(max_batch=3), detector, encoder)
    assert for_detector.bucket == "3 images of 32x64 with 64 tokens"
    assert for_detector.image == 32 * 64 * (3 * 4 + 1) + 64 * 768 * 4
    assert for_encoder.bucket == "3 images of 16x16"
    assert for_encoder.image == 16 * 16 * 3 * 4
    assert (for_detector.weights, for_detector.measured) == (1000, False)


def test_bundle_may_ask_for_fewer_images_than_the_setting(detector):
    assert plans(budget(max_batch=99), detector)[0].batch == detector.manifest.buckets.max_batch


def test_activations_grow_with_the_batch_of_images_and_of_texts(detector, encoder):
    peaks = Peaks(image=MIB, text=7)
    for_detector, for_encoder = (
        with_peaks(plan, bundle.manifest, peaks)
        for bundle, plan in zip((detector, encoder), plans(budget(), detector, encoder), strict=True)
    )
    assert for_detector.activations == 8 * MIB + 7, "a prompt is encoded on its own"
    assert for_encoder.activations == 8 * MIB + 64 * 7
    assert for_detector.measured is for_encoder.measured is True


def test_plan_stays_an_estimate_where_nothing_can_be_measured(detector):
    (plan,) = plans(budget(), detector)
    assert with_peaks(plan, detector.manifest, None) == plan


def test_measurement_below_the_inputs_is_not_believed(detector):
    (plan,) = plans(budget(), detector)
    assert with_peaks(plan, detector.manifest, Peaks(image=0, text=0)).image == plan.image


def test_total_is_everything_that_may_be_held(detector, encoder):
    of = budget(process=10, prompt_cache=20, pool=3000)
    footprints = plans(of, detector, encoder)
    parts = sum(plan.weights + plan.activations for plan in footprints)
    assert of.total(footprints) == 10 + 20 + 3000 + parts


def test_pool_is_sized_by_the_bundles_unless_set(detector, encoder):
    footprints = plans(budget(), detector, encoder)
    assert budget().pool_cap(footprints) == 2 * sum(plan.buffers for plan in footprints)
    assert budget(pool=MIB).pool_cap(footprints) == MIB


def test_what_fits_exactly_is_served(detector):
    footprints = plans(budget(), detector)
    limit = budget().total(footprints)
    budget(limit=limit).check(footprints)
    with pytest.raises(OverBudget):
        budget(limit=limit - 1).check(footprints)


def test_refusal_names_bundle_bucket_parts_and_the_way_out(detector, encoder, measured):
    measured(image=10 * MIB)
    with pytest.raises(OverBudget) as refusal:
        load(encoder, detector, memory_limit_bytes=250 * MIB, prompt_cache_bytes=50 * MIB, pool_bytes=MIB)
    assert str(refusal.value) == (
        "fake-detector does not fit in memory: 8 images of 32x64 with 64 tokens (measured on one) 80.0 MiB, its weights"
        " 0.0 MiB, bundles before it 80.0 MiB, the pool 1.0 MiB, the prompt cache 50.0 MiB, the process 100.0 MiB make"
        " 311.0 MiB, the limit is 250.0 MiB. To mend it set max_batch to 1, lower pool_bytes or prompt_cache_bytes,"
        " serve fewer bundles, or raise memory_limit_bytes"
    )


def test_refused_batch_names_one_that_fits(detector, measured):
    measured(image=10 * MIB)
    fitting = {"memory_limit_bytes": 155 * MIB, "prompt_cache_bytes": 0, "pool_bytes": MIB}
    with pytest.raises(OverBudget, match="To mend it set max_batch to 5, lower pool_bytes"):
        load(detector, **fitting)
    load(detector, **fitting, max_batch=5)
    with pytest.raises(OverBudget):
        load(detector, **fitting, max_batch=6)


def test_single_image_that_does_not_fit_asks_for_no_smaller_batch(detector, measured):
    measured(image=500 * MIB)
    with pytest.raises(OverBudget, match="To mend it lower pool_bytes"):
        load(detector, memory_limit_bytes=200 * MIB, max_batch=1)


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
    folder = BUNDLED / "grounding-dino-mini"
    with pytest.raises(
        OverBudget, match=r"grounding-dino-mini does not fit in memory: .* \(estimated, the inputs alone\)"
    ):
        open_bundles(Settings(bundle=(folder,), memory_limit_bytes=MIB))


def test_limit_is_the_cgroups_unless_set(monkeypatch):
    monkeypatch.setattr("server.registry.budget.memory_limit", lambda: 5 * MIB)
    assert Budget.of(Settings()).limit == 5 * MIB
    assert Budget.of(Settings(memory_limit_bytes=7)).limit == 7
    monkeypatch.setattr("server.registry.budget.memory_limit", lambda: None)
    assert Budget.of(Settings()).limit is None


def test_bundled_models_are_measured_and_take_more_than_their_inputs():
    bundles = open_bundles(Settings())
    registry = load(*bundles)
    for served in registry.models:
        plan = registry.budget.plan(served.bundle.manifest, served.bundle.weights_bytes)
        assert served.footprint.weights == sum(path.stat().st_size for path in served.bundle.folder.glob("*.onnx"))
        if served.footprint.measured and served.name == "grounding-dino-mini":
            assert 3 * plan.activations < served.footprint.activations < 100 * plan.activations


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
    assert "openset serve: fake-encoder does not fit in memory: 8 images of 16x16" in capsys.readouterr().err
