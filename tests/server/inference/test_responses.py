"""Responses: boxes in every format, scores best first, numbers rounded."""

import numpy as np
import pytest

from server.contract.postprocess import Detection
from server.contract.text import Phrase
from server.inference.responses import EMBEDDING_DIGITS, format_box, image_detections, image_scores, rounded_rows


@pytest.mark.parametrize(
    ("box_format", "expected"),
    [
        ("xyxy", (10.12, 20.0, 30.12, 60.0)),
        ("xywh", (10.12, 20.0, 20.0, 40.0)),
        ("cxcywh", (20.12, 40.0, 20.0, 40.0)),
        ("xyxyn", (0.050617, 0.2, 0.150617, 0.6)),
        ("xywhn", (0.050617, 0.2, 0.1, 0.4)),
        ("cxcywhn", (0.100617, 0.4, 0.1, 0.4)),
    ],
)
def test_box_of_an_image_100_high_and_200_wide(box_format, expected):
    assert format_box((10.1234, 20, 30.1234, 60), box_format, size=(100, 200)) == pytest.approx(expected, abs=1e-9)


def test_detections_carry_labels_spans_and_scores_of_six_digits():
    found = Detection((0, 0, 10, 20), "a dog", 0, 0.12345678, ((2, 5),), label_scores=(0.12345678, None))
    labels = [Phrase("a dog", 0, 5), Phrase("a cat", 7, 12)]
    body = image_detections([found], labels, size=(50, 40), box_format="xyxy")
    assert (body.width, body.height) == (40, 50)
    assert body.labels == ["a dog", "a cat"]
    assert body.label_spans == [(0, 5), (7, 12)]
    (detection,) = body.detections
    assert (detection.score, detection.label_scores, detection.matched) == (0.123457, [0.123457, None], [(2, 5)])


def test_scores_are_sorted_and_ties_keep_the_order_of_the_request():
    scores = image_scores(np.float32([0.2, 0.5, 0.2, 0.1]), ["a", "b", "c", "d"], top_k=3).scores
    assert [(score.label, score.label_id) for score in scores] == [("b", 1), ("a", 0), ("c", 2)]
    assert scores[1].score == 0.2


def test_embeddings_have_eight_digits():
    assert rounded_rows(np.float32([[1 / 3, 2 / 3]]), EMBEDDING_DIGITS) == [[0.33333334, 0.66666669]]
