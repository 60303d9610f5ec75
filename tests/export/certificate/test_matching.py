import numpy as np
import pytest

from export.certificate.matching import SCORE_TIE, compare_detections, fair_threshold, match_detections
from server.contract.postprocess import Detection
from tests.server.contract.test_postprocess import PROMPT, RULES


def found(x, *, label=0, score=0.9):
    return Detection(box=(x, 0.0, x + 10.0, 10.0), label=str(label), label_id=label, score=score, matched=())


def test_the_same_detections_in_another_order_all_match():
    pairs = match_detections([found(0), found(100), found(200)], [found(200), found(0), found(100)])
    assert sorted(a.box[0] == b.box[0] for a, b, _ in pairs) == [True] * 3


def test_detections_on_one_spot_are_paired_by_label():
    pairs = match_detections([found(0, label=0), found(0, label=1)], [found(0, label=1), found(0, label=0)])
    assert all(a.label_id == b.label_id for a, b, _ in pairs)


def test_each_detection_is_in_one_pair_at_most():
    assert len(match_detections([found(0), found(1)], [found(0)])) == 1


def test_boxes_that_hardly_overlap_do_not_match():
    assert match_detections([found(0)], [found(8)]) == []


@pytest.mark.parametrize("lists", [([], []), ([found(0)], []), ([], [found(0)])])
def test_an_empty_list_matches_nothing(lists):
    assert match_detections(*lists) == []


@pytest.mark.parametrize(("gap", "agreement"), [(SCORE_TIE / 2, 1.0), (2 * SCORE_TIE, 0.0)])
def test_label_that_scores_within_a_tie_of_the_best_is_no_disagreement(gap, agreement):
    scores = np.zeros((6, 7), np.float32)
    scores[:, 1:3], scores[:, 4] = 0.5, 0.5 - gap
    swapped = scores.copy()
    swapped[:, 1:3], swapped[:, 4] = 0.5 - gap, 0.5
    boxes = np.float32([[x, 0.5, 0.1, 0.1] for x in np.linspace(0.1, 0.9, 6)])
    figures = compare_detections((swapped, boxes), (scores, boxes), PROMPT, RULES)
    assert figures["detections.matched"] == 1
    assert figures["detections.label_agreement"] == agreement


def test_threshold_of_the_bundle_holds_where_enough_is_found():
    assert fair_threshold(np.linspace(0.9, 0.3, 20, dtype=np.float32), 0.35) == 0.35


def test_threshold_falls_into_the_widest_gap_where_little_is_found():
    scores = np.asarray([0.30, 0.29, 0.28, 0.27, 0.26, 0.25, 0.10, 0.09, 0.08], np.float32)
    assert 0.10 < fair_threshold(scores, 0.35) < 0.25


def test_threshold_falls_no_lower_than_needed():
    assert fair_threshold(np.asarray([0.3, 0.2], np.float32), 0.35) == 0.35
