"""Batches are assembled in the pool: the bundled models are fed the same, and nothing stays lent."""

import gc

import numpy as np
import pytest
from PIL import Image

from server.bundle import pad_features
from server.memory.allocators import HostAllocator
from server.memory.pool import PoolExhausted
from tests.server.memory.poisoned_pool import PoisonedPool

SIZES = [(200, 128), (100, 60), (208, 128)]  # (width, height): of one canvas


@pytest.fixture
def detector(bundled_detector):
    return bundled_detector


@pytest.fixture
def encoder(bundled_encoder):
    return bundled_encoder


@pytest.fixture(autouse=True)
def _small_buffers_are_leased_too(monkeypatch):
    monkeypatch.setattr("server.bundle.LEASED_BYTES", 0)


@pytest.fixture
def pool():
    return PoisonedPool(HostAllocator())


def scene(detector):
    """Pixels of one canvas, and for each a prompt with its text features."""
    noise = np.random.default_rng(0)
    pictures = [Image.fromarray(noise.integers(0, 255, (h, w, 3), np.uint8)) for w, h in SIZES]
    prompts = [detector.prompts.from_labels(["a dog", "a cat"][:count]) for count in (1, 2, 1)]
    pixels = [detector.preprocess(picture) for picture in pictures]
    assert len({detector.canvas(image) for image in pixels}) == 1
    return pixels, prompts, detector.encode_prompts(prompts)


def test_detector_is_fed_the_same_from_new_and_from_used_buffers(detector, pool, fed):
    detector.pool = pool
    inputs = scene(detector)
    images, runs = fed(detector, "image_encoder"), fed(detector, "detector")
    new, reserved = detector.run_detector(*inputs), pool.stats().reserved
    used = detector.run_detector(*inputs)
    assert pool.stats().reserved == reserved, "the second run took no memory of its own"
    for (scores, boxes), (scores_again, boxes_again) in zip(new, used, strict=True):
        np.testing.assert_array_equal(scores, scores_again)
        np.testing.assert_array_equal(boxes, boxes_again)
    for name, tensor in runs[0].items():
        np.testing.assert_array_equal(tensor, runs[1][name])
    for row, (image, features) in enumerate(zip(inputs[0], inputs[2], strict=True)):
        _, height, width = image.shape
        expected = np.zeros_like(images[1]["pixel_values"][row])
        expected[:, :height, :width] = image
        np.testing.assert_array_equal(images[1]["pixel_values"][row], expected)
        assert runs[1]["pixel_mask"][row].sum() == height * width
        assert not runs[1]["text_features"][row, len(features) :].any()


def test_passes_take_no_more_of_the_pool_than_one(detector, pool):
    detector.pool = pool
    pixels, prompts, features = scene(detector)
    detector.run_detector(pixels, prompts, features)
    once = pool.stats().high_water
    with detector.encoded(pixels) as encoded:
        for _ in range(5):
            detector.detect(encoded, prompts, features)
    assert pool.stats().high_water == once
    assert pool.stats().in_use == 0


def test_encoder_is_fed_the_same_from_new_and_from_used_buffers(encoder, pool):
    encoder.pool = pool
    pixels = [np.full((3, 64, 64), value, np.float32) for value in (-1, 0, 1)]
    first = encoder.embed_images(pixels)
    kept = first.copy()
    np.testing.assert_array_equal(encoder.embed_images(pixels[::-1])[::-1], kept)
    np.testing.assert_array_equal(first, kept)
    assert pool.stats().in_use == 0


def test_outputs_are_not_in_the_buffers(detector, encoder, pool):
    detector.pool = encoder.pool = pool
    outputs = [array for pair in detector.run_detector(*scene(detector)) for array in pair]
    outputs.append(encoder.embed_images([np.zeros((3, 64, 64), np.float32)]))
    assert all(np.isfinite(output).all() for output in outputs), "a released buffer is all NaN here"
    assert pool.stats().in_use == 0
    pool.trim()  # finds what was written to after its release


def test_output_that_is_an_input_is_copied(encoder, pool, monkeypatch):
    class Through:
        inputs = ("pixel_values",)

        def run(self, tensors):
            return {"image_embeds": tensors["pixel_values"][:, 0, 0]}

    monkeypatch.setitem(encoder._sessions, "image_encoder", Through())
    encoder.pool = pool
    assert (encoder.embed_images([np.ones((3, 64, 64), np.float32)]) == 1).all()


def test_failed_run_gives_its_buffers_back(detector, pool, monkeypatch):
    class Failing:
        inputs = ("pixel_values",)

        def run(self, tensors):
            raise RuntimeError("the run failed")

    monkeypatch.setitem(detector._sessions, "detector", Failing())
    detector.pool = pool
    with pytest.raises(RuntimeError, match="the run failed"):
        detector.run_detector(*scene(detector))
    gc.collect()
    assert (pool.stats().in_use, pool.stats().leaked) == (0, {})


def test_batch_that_does_not_fit_gives_back_what_it_had_got(detector):
    inputs = scene(detector)
    detector.pool = enough = PoisonedPool(HostAllocator())
    detector.run_detector(*inputs)
    detector.pool = pool = PoisonedPool(HostAllocator(), cap=enough.stats().high_water - 1)
    with pytest.raises(PoolExhausted, match="to grounding-dino-mini"):
        detector.run_detector(*inputs)
    assert pool.stats().high_water > 0, "some of its buffers there was room for"
    assert pool.stats().in_use == 0
    assert len(detector.run_detector(*(part[:2] for part in inputs))) == 2


def test_small_buffers_of_the_host_are_new_arrays_and_large_ones_leased(encoder, pool, monkeypatch):
    monkeypatch.setattr("server.bundle.LEASED_BYTES", 2 * 3 * 64 * 64 * 4)
    encoder.pool = pool
    image = np.zeros((3, 64, 64), np.float32)
    alone = encoder.embed_images([image])
    assert pool.stats().high_water == 0
    np.testing.assert_allclose(encoder.embed_images([image, image])[0], alone[0], rtol=0, atol=1e-6)
    assert pool.stats().high_water == 2 * 3 * 64 * 64 * 4


def test_every_buffer_is_leased_where_a_part_runs_on_a_gpu(encoder, pool, monkeypatch):
    monkeypatch.setattr("server.bundle.LEASED_BYTES", 2**40)
    monkeypatch.setattr(encoder, "gpu", object())
    encoder.pool = pool
    encoder.embed_images([np.zeros((3, 64, 64), np.float32)])
    assert pool.stats().high_water == 3 * 64 * 64 * 4, "copied to the GPU straight from page-locked memory"


def test_features_are_padded_with_zeros_whatever_was_there():
    out = np.full((2, 3, 2), 9, np.float32)
    pad_features([np.ones((1, 2), np.float32), np.ones((3, 2), np.float32)], out=out)
    assert out[:, :, 0].tolist() == [[1, 0, 0], [1, 1, 1]]
