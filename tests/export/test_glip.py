import numpy as np
import pytest
import torch

from export import glip
from export.certificate.verify import verify
from export.progress import Progress
from models import registry
from models.glip.candidates import rank_is_decided
from models.glip.model import GlipOutput
from server.bundle import Bundle
from server.contract.image import resized_size
from tests.models.small_glip import SWIN

NEAR = 1e-3


def output(scores, *, labels=1):
    """One level whose labels, of a token each, score `scores` [S, labels] with full centerness."""
    scores = torch.tensor(scores).reshape(1, -1, labels)
    count = scores.shape[1]
    return GlipOutput(
        token_logits=scores.logit(),
        boxes_xyxy=torch.zeros(1, count, 4),
        centerness=torch.full((1, count), 50.0),
        anchors_xyxy=torch.zeros(count, 4),
        level_sizes=[count],
    )


def decided(scores, *, labels=1):
    owner = torch.arange(labels)[None]
    return rank_is_decided(output(scores, labels=labels), owner, SWIN, near=NEAR)[0].tolist()


def test_rules_are_those_of_the_official_code(save_checkpoint):
    rules = glip.rules(registry.load(save_checkpoint("glip")))
    assert (rules.preprocessing.channels, rules.preprocessing.scale) == ("bgr", 1.0)
    assert (rules.preprocessing.shorter, rules.preprocessing.longer) == (800, 1333)
    assert resized_size(500, 3000, rules.preprocessing) == (222, 1332)
    assert rules.buckets.pixel_multiple == 32
    assert (rules.text.attention, rules.text.max_tokens) == ("prompt", 48)
    assert rules.detection.labels_per_box == "all"
    assert rules.detection.box_edges == "inclusive"
    assert (rules.detection.box_threshold, rules.detection.nms_iou, rules.detection.max_detections) == (0.7, 0.6, 100)


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


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([0.9, 0.5, 0.3], [True, True, True]),
        ([0.9, 0.5, 0.50001], [True, False, False]),
        ([0.9, 0.02, 0.020001], [True, False, False]),
        ([0.9, 0.05001, 0.01], [True, False, True]),
        ([0.9, 3e-5, 2.99e-5], [True, False, False]),
    ],
    ids=["apart", "near", "near below the candidate score", "at the candidate score", "one bit of a key apart"],
)
def test_ranks_that_hang_on_noise_are_undecided(scores, expected):
    assert decided(scores) == expected


def test_a_pair_at_the_edge_of_what_is_kept_is_undecided():
    """SWIN keeps 12 pairs of a level; of 7 positions with 2 labels each, the last two pairs kept and left are near."""
    scores = [[0.9 - 0.05 * row, 0.4 - 0.02 * row] for row in range(7)]
    assert decided(scores, labels=2) == [True] * 4 + [False] + [True] * 2
