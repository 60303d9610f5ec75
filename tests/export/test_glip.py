"""A small GLIP's bundle: certificate, candidates, labels, and independence of the images of a batch."""

import numpy as np

from export.certificate.verify import verify
from export.progress import Progress
from server.bundle import Bundle


def test_bundle_is_certified_and_verifies(glip_bundle):
    bundle = Bundle(glip_bundle)
    assert bundle.uncertified == {}
    assert {artefact.part for artefact in bundle.manifest.artefacts} == {"image_encoder", "text_encoder", "detector"}
    assert verify(glip_bundle, Progress(quiet=True)).faults == ()


def test_detector_returns_no_more_than_the_best_positions_of_each_level(glip_bundle):
    bundle = Bundle(glip_bundle)
    prompts = [bundle.prompts.from_labels(["red car"])]
    pixels = [np.zeros((3, 128, 192), np.float32)]
    ((scores, boxes),) = bundle.run_detector(pixels, prompts, bundle.encode_prompts(prompts))
    positions = (100, 8 * 12, 4 * 6, 2 * 3, 1 * 2)  # of 16 x 24 on the finest level the best 100
    assert scores.shape == (sum(positions), len(prompts[0]))
    assert boxes.shape == (sum(positions), 4)


def test_tokens_of_a_label_share_its_score_and_others_have_none(glip_bundle):
    bundle = Bundle(glip_bundle)
    (prompt,) = [bundle.prompts.from_labels(["sports car", "dog"])]
    ((scores, _),) = bundle.run_detector([np.zeros((3, 64, 64), np.float32)], [prompt], bundle.encode_prompts([prompt]))
    owner = prompt.token_label
    assert not scores[:, owner == -1].any()
    assert (scores[:, owner == 0] == scores[:, owner == 0][:, :1]).all()
    assert scores.max() > 0


def test_prompts_and_sizes_of_a_batch_do_not_touch_each_other(glip_bundle):
    bundle = Bundle(glip_bundle)
    rng = np.random.default_rng(0)
    pixels = [rng.standard_normal((3, 120, 160)).astype(np.float32) for _ in range(2)]
    pixels.append(rng.standard_normal((3, 128, 150)).astype(np.float32))
    prompts = [bundle.prompts.from_labels(labels) for labels in (["dog"], ["red bicycle", "key", "boat"], ["cat"])]
    features = bundle.encode_prompts(prompts)
    together = bundle.run_detector(pixels, prompts, features)
    for index, (scores, boxes) in enumerate(together):
        alone = bundle.run_detector([pixels[index]], [prompts[index]], bundle.encode_prompts([prompts[index]]))[0]
        np.testing.assert_allclose(np.sort(scores, 0), np.sort(alone[0], 0), atol=1e-4)
        np.testing.assert_allclose(np.sort(boxes, 0), np.sort(alone[1], 0), atol=1e-4)
