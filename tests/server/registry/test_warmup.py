"""The warm-up runs the largest shapes, and the plan has room for them."""

import time
from types import SimpleNamespace

import pytest
from PIL import Image

from server.memory.allocators import HostAllocator
from server.memory.pool import BufferPool
from server.registry import warmup
from server.registry.footprints import plan_bundle
from server.registry.model_registry import ModelRegistry
from server.registry.warmup import largest_picture, warm_up, warm_up_shapes
from server.settings import Settings
from server.telemetry.metrics import Metrics

# Of the bundled models: the detector's shorter side and bound of the longer, and the encoder's square, in pixels.
SHORTER, LONGER, SQUARE = 288, 480, 224
# The sides of smaller images, whose many shapes run in less time, for each aspect ratio.
SIDES = (160, 224, 256, 288)
CANVASES = {size for side in SIDES for size in ((SIDES[0], side), (side, SIDES[0]))}


@pytest.fixture
def detector(bundled_detector):
    return bundled_detector


@pytest.fixture
def smaller(detector, monkeypatch):
    manifest = detector.manifest
    rules = manifest.preprocessing.reduced(SIDES[0])
    monkeypatch.setattr(detector, "manifest", manifest.model_copy(update={"preprocessing": rules}))
    return detector


@pytest.fixture
def encoder(bundled_encoder):
    return bundled_encoder


@pytest.fixture
def small_buffers_are_leased_too(monkeypatch):
    monkeypatch.setattr("server.bundle.LEASED_BYTES", 0)


@pytest.mark.usefixtures("small_buffers_are_leased_too")
@pytest.mark.parametrize("name", ["detector", "encoder"])
@pytest.mark.parametrize("batch", [1, 3])
def test_planned_buffers_hold_the_largest_batch(name, batch, request):
    bundle = request.getfixturevalue(name)
    bundle.pool = pool = BufferPool(HostAllocator())
    plan = plan_bundle(bundle, Settings(max_batch=batch))
    pixels = [bundle.preprocess(Image.new("RGB", largest_picture(bundle.manifest)))] * batch
    if name == "detector":
        prompt = bundle.prompts.from_labels(["dog"] * 120)
        assert bundle.token_bucket([prompt]) == bundle.manifest.text.max_tokens
        bundle.run_detector(pixels, [prompt] * batch, bundle.encode_prompts([prompt]) * batch)
    else:
        bundle.embed_images(pixels)
    assert plan.buffers_bytes / 3 < pool.stats().high_water <= plan.buffers_bytes, (
        "a wider text tower than this one is planned for"
    )


def test_warm_up_reaches_the_largest_shapes(detector, encoder, fed):
    bundles = (
        (detector, "image_encoder"),
        (detector, "text_encoder"),
        (detector, "detector"),
        (encoder, "image_encoder"),
        (encoder, "text_encoder"),
    )
    runs = {(bundle.manifest.name, part): fed(bundle, part) for bundle, part in bundles}
    warm_up(detector)
    warm_up(encoder)
    (seen,), (prompted,), (detected,) = (runs["grounding-dino-mini", part] for _, part in bundles[:3])
    assert seen["pixel_values"].shape == (1, 3, SHORTER, LONGER)
    assert detected["pixel_mask"].shape == (1, SHORTER, LONGER)
    assert detected["text_features"].shape[:2] == (1, 256)
    assert prompted["input_ids"].shape == (1, 256)
    (embedded,), (written,) = runs["clip-mini", "image_encoder"], runs["clip-mini", "text_encoder"]
    assert embedded["pixel_values"].shape == (1, 3, SQUARE, SQUARE)
    assert written["input_ids"].shape[1] >= encoder.manifest.text.max_tokens - 1


def test_every_shape_bucket_is_run_alone_and_in_the_largest_batch(smaller, encoder, fed, monkeypatch):
    monkeypatch.setattr(warmup, "SHAPES_WITHIN_S", 600)  # also beside other work
    detected, embedded, written = fed(smaller, "detector"), fed(encoder, "image_encoder"), fed(encoder, "text_encoder")
    assert warm_up_shapes(smaller, batch=2) == 0
    assert warm_up_shapes(encoder, batch=2) == 0
    shapes = [(*run["pixel_mask"].shape, run["text_features"].shape[1]) for run in detected]
    tokens = smaller.manifest.buckets.tokens
    assert sorted(shapes) == sorted(
        (count, *canvas, length) for count in (1, 2) for canvas in CANVASES for length in tokens
    )
    assert [count for count, *_ in shapes] == sorted(count for count, *_ in shapes), "alone first"
    assert [run["pixel_values"].shape for run in embedded] == [(count, 3, SQUARE, SQUARE) for count in (1, 2)]
    assert [len(run["input_ids"]) for run in written] == [1, 64]


def test_time_for_shape_buckets_is_bounded_and_those_left_are_counted(smaller, fed, monkeypatch):
    monkeypatch.setattr(warmup, "SHAPES_WITHIN_S", 1e-9)
    runs = fed(smaller, "detector")
    assert warm_up_shapes(smaller, batch=8) == len(CANVASES) * 5 * 2
    assert runs == []


@pytest.mark.usefixtures("small_buffers_are_leased_too")
def test_shape_that_has_no_room_in_the_pool_is_left(smaller):
    plan = plan_bundle(smaller, Settings())
    smaller.pool = BufferPool(HostAllocator(), cap=plan.image_buffers_bytes)
    left = warm_up_shapes(smaller, batch=8)
    assert 0 < left <= len(CANVASES) * 5, "alone all fit"


@pytest.mark.parametrize(
    ("wanted", "gpu", "shapes"),
    [("auto", None, False), ("auto", "cuda:0", True), ("largest", "cuda:0", False)],
)
def test_all_shapes_are_run_where_the_first_of_each_is_slow(monkeypatch, wanted, gpu, shapes):
    done = []
    monkeypatch.setattr("server.registry.model_registry.warm_up", lambda _: done.append("largest"))
    monkeypatch.setattr("server.registry.model_registry.warm_up_shapes", lambda *_, **__: done.append("all") or 0)
    bundle = SimpleNamespace(gpu=gpu, check_canary=lambda: None, manifest=None)
    planned = SimpleNamespace(batch=8, name="b", gpu=None)
    assert ModelRegistry(Settings(warm_up=wanted), Metrics())._check(bundle, planned) is planned
    assert done == ["largest", *(["all"] if shapes else [])]


def test_after_the_warm_up_the_first_run_of_a_shape_costs_what_the_second_does(detector):
    """Of the processor's time: a machine that others use tells nothing by the clock."""
    warm_up(detector)
    first = second = 0.0
    for size in ((128, 128), (170, 128), (128, 170), (208, 128)):
        for labels in (3, 20, 100):
            pixels = [detector.preprocess(Image.new("RGB", size))]
            prompt = detector.prompts.from_labels(["dog"] * labels)
            took = []
            for _ in range(2):
                started = time.process_time()
                detector.run_detector(pixels, [prompt], detector.encode_prompts([prompt]))
                took.append(time.process_time() - started)
            first, second = first + took[0], second + took[1]
    assert first < 2 * second
