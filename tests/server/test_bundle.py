"""A bundle: files checked, tensors padded, what its parts return for a batch and alone, and its canary."""

import shutil

import numpy as np
import pytest
from PIL import Image

from server.bundle import Bundle, check_file, pad_features, weights_bytes
from server.contract.manifest import BundleError
from server.registry.model_cache import BUNDLED

CLIP = BUNDLED / "clip-mini"


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(CLIP, tmp_path / "bundle")


def pixels(bundle, *sizes):
    rng = np.random.default_rng(0)
    return [bundle.preprocess(Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))) for size in sizes]


def test_missing_or_changed_file_is_refused_by_name(folder):
    entry = Bundle(folder, threads=1).manifest.tokenizer
    (folder / entry.file).write_text("{}")
    with pytest.raises(BundleError, match=r"tokenizer\.json is not the file its manifest names"):
        Bundle(folder, threads=1)
    (folder / entry.file).unlink()
    with pytest.raises(BundleError, match=r"lacks tokenizer\.json"):
        check_file(folder, entry)


def test_weights_are_the_sizes_of_the_artefacts(bundled_encoder):
    sizes = [(CLIP / artefact.file).stat().st_size for artefact in bundled_encoder.artefacts.values()]
    assert bundled_encoder.weights_bytes == sum(sizes) == weights_bytes(CLIP, bundled_encoder.manifest)


def test_embeddings_have_unit_length_and_do_not_depend_on_the_batch(bundled_encoder):
    images = pixels(bundled_encoder, (40, 60), (90, 30))
    together = bundled_encoder.embed_images(images)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together[1], bundled_encoder.embed_images(images[1:])[0], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(bundled_encoder.embed_texts(["a dog", "a"]), axis=1), 1, atol=1e-5)


def test_detection_does_not_depend_on_the_prompts_beside_it(bundled_detector):
    image, *_ = pixels(bundled_detector, (64, 64))
    prompts = [bundled_detector.prompts.from_labels(labels) for labels in (["a dog"], ["a red ball", "a house", "cat"])]
    features = bundled_detector.encode_prompts(prompts)
    assert [len(each) for each in features] == [len(prompt) for prompt in prompts]
    together = bundled_detector.run_detector([image, image], prompts, features)
    ((scores, boxes),) = bundled_detector.run_detector([image], prompts[:1], features[:1])
    assert scores.shape == (len(boxes), len(prompts[0]))
    np.testing.assert_allclose(together[0][0], scores, atol=1e-4)
    np.testing.assert_allclose(together[0][1], boxes, atol=1e-4)


def test_features_are_padded_with_zeros():
    out = np.full((2, 3, 2), np.nan, np.float32)
    pad_features([np.ones((1, 2), np.float32), np.full((3, 2), 2, np.float32)], out=out)
    assert out.tolist() == [[[1, 1], [0, 0], [0, 0]], [[2, 2], [2, 2], [2, 2]]]


def test_canary_that_this_machine_does_not_reproduce_is_refused(folder):
    bundle = Bundle(folder, threads=1)
    bundle.check_canary()
    file = folder / bundle.manifest.canary.file
    with np.load(file) as stored:
        arrays = dict(stored)
    name = next(name for name in arrays if name.startswith("text_encoder/out/"))
    arrays[name] = arrays[name] + 1
    np.savez(file, **arrays)
    with pytest.raises(BundleError, match="the canary of text_encoder differs"):
        bundle.check_canary()
