"""Post-processing: exact labels, strict thresholds, boxes in pixels."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from server.contract.manifest import DetectionRules
from server.contract.postprocess import Thresholds, class_scores, detections, iou_matrix, label_scores, nms, to_pixels
from server.contract.text import Phrase

RULES = DetectionRules(box_threshold=0.3, text_threshold=0.2)
# [CLS] red car . dog . [SEP]
PROMPT = SimpleNamespace(
    labels=(Phrase("red car"), Phrase("Dog")),
    token_label=np.array([-1, 0, 0, -1, 1, -1, -1]),
    token_span=np.array([[0, 0], [0, 3], [4, 7], [0, 0], [0, 3], [0, 0], [0, 0]]),
)
SCORES = np.array(
    [[0.9, 0.1, 0.5, 0.9, 0.2, 0.9, 0.9], [0, 0.1, 0.1, 0, 0.8, 0, 0], [0, 0.3, 0.3, 0, 0.3, 0, 0]], np.float32
)
BOXES = np.array([[0.5, 0.5, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5], [0.5, 0.5, 1, 1]], np.float32)


def detect(**changes):
    thresholds = Thresholds(
        **({"box_threshold": 0.3, "text_threshold": 0.2, "nms_iou": None, "max_detections": 9} | changes)
    )
    return detections(SCORES, BOXES, PROMPT, size=(100, 200), rules=RULES, thresholds=thresholds)


def test_best_first_with_the_label_as_written():
    assert [(found.label, found.label_id) for found in detect()] == [("Dog", 1), ("red car", 0)]


def test_special_tokens_and_separators_never_score():
    assert max(found.score for found in detect()) == pytest.approx(0.8)


def test_threshold_is_strict():
    assert len(detect(box_threshold=np.float32(0.3))) == 2


def test_boxes_are_pixels_of_the_image():
    assert detect()[0].box == (0, 0, 100, 50)
    assert detect()[1].box == (50, 25, 150, 75)


def test_matched_words_are_those_above_the_text_threshold():
    assert [found.matched for found in detect()] == [((0, 3),), ((4, 7),)]
    assert detect(text_threshold=0.05)[1].matched == ((0, 3), (4, 7))


def test_max_detections_keeps_the_best():
    assert [found.label for found in detect(max_detections=1)] == ["Dog"]


def test_mean_reduction_averages_a_labels_tokens():
    rules = RULES.model_copy(update={"token_reduction": "mean"})
    np.testing.assert_allclose(label_scores(SCORES, PROMPT, rules)[0], [0.3, 0.2], rtol=1e-6)


def test_nms_drops_the_worse_of_two_with_one_label_only():
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10]], np.float32)
    assert nms(boxes, np.array([0, 0, 1]), 0.5, limit=9).tolist() == [0, 2]
    assert nms(boxes, np.array([0, 0, 1]), 0.95, limit=9).tolist() == [0, 1, 2]


@given(boxes=hnp.arrays(np.float32, (6, 4), elements=st.floats(0, 1, width=32)))
def test_boxes_stay_inside_the_image(boxes):
    pixels = to_pixels(boxes, (30, 70))
    assert (pixels >= 0).all()
    assert (pixels <= [70, 30, 70, 30]).all()
    assert (pixels[:, 2:] >= pixels[:, :2]).all()
    iou = iou_matrix(pixels, pixels)
    np.testing.assert_allclose(iou, iou.T)
    assert ((iou >= 0) & (iou <= 1 + 1e-6)).all()


def test_class_scores_are_a_softmax_or_independent():
    cosine = np.array([[0.3, 0.1]], np.float32)
    np.testing.assert_allclose(
        class_scores(cosine, logit_scale=10, logit_bias=0, multi_label=False).sum(1), 1, rtol=1e-6
    )
    np.testing.assert_allclose(
        class_scores(cosine, logit_scale=10, logit_bias=-2, multi_label=True), 1 / (1 + np.exp([[-1, 1]])), rtol=1e-6
    )


@given(hnp.arrays(np.float32, (3, 5), elements=st.floats(-1, 1, width=32)))
def test_class_scores_are_finite_at_a_high_scale(cosine):
    for multi_label in (False, True):
        assert np.isfinite(class_scores(cosine, logit_scale=1000, logit_bias=0, multi_label=multi_label)).all()
