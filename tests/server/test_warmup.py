"""The warm-up runs the largest shapes, and the plan has room for them."""

import pytest
from PIL import Image

from server.allocators import HostAllocator
from server.budget import Budget
from server.memory import BufferPool
from server.settings import Settings
from server.warmup import largest_picture, warm_up


@pytest.fixture
def detector(bundled_detector):
    return bundled_detector


@pytest.fixture
def encoder(bundled_encoder):
    return bundled_encoder


@pytest.mark.parametrize("name", ["detector", "encoder"])
@pytest.mark.parametrize("batch", [1, 8])
def test_planned_buffers_hold_the_largest_batch(name, batch, request):
    bundle = request.getfixturevalue(name)
    bundle.pool = pool = BufferPool(HostAllocator())
    plan = Budget.of(Settings(max_batch=batch)).plan(bundle.manifest, bundle.weights_bytes)
    pixels = [bundle.preprocess(Image.new("RGB", largest_picture(bundle.manifest)))] * batch
    if name == "detector":
        prompt = bundle.prompts.from_labels(["dog"] * 120)
        assert bundle.token_bucket([prompt]) == bundle.manifest.text.max_tokens
        bundle.run_detector(pixels, [prompt] * batch, bundle.encode_prompts([prompt]) * batch)
    else:
        bundle.embed_images(pixels)
    assert plan.buffers / 3 < pool.stats().high_water <= plan.buffers, "a wider text tower than this one is planned for"


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
    assert seen["pixel_values"].shape == (1, 3, 128, 224)
    assert detected["pixel_mask"].shape == (1, 128, 224)
    assert detected["text_features"].shape[:2] == (1, 256)
    assert prompted["input_ids"].shape == (1, 256)
    (embedded,), (written,) = runs["clip-mini", "image_encoder"], runs["clip-mini", "text_encoder"]
    assert embedded["pixel_values"].shape == (1, 3, 64, 64)
    assert written["input_ids"].shape[1] >= encoder.manifest.text.max_tokens - 1
