from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.certificate.average_precision import IOUS, Answers, average_precision
from models.data.coco_evaluator import CocoEvaluation, GroundTruthBox
from server.contract.postprocess import Detection

THRESHOLD = 0.3


def detection(left, score, label=0, side=100.0):
    return Detection((left, 0.0, left + side, side), str(label), label, score, ())


def random_detections(rng, count):
    return [detection(float(left), float(score)) for left, score in rng.uniform((0, 0), (900, 1), (count, 2))]


THEIRS = [detection(150.0 * place, 0.95 - 0.1 * place, label=place) for place in range(6)]


def precision_of(ours, theirs=THEIRS):
    return average_precision([Answers(ours, theirs)], box_threshold=THRESHOLD)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_same_answers_have_full_precision(seed):
    found = random_detections(np.random.default_rng(seed), 12)
    assert precision_of(found, found) == pytest.approx(1)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_precision_of_one_label_is_that_of_coco_s_evaluator(seed, count):
    rng = np.random.default_rng(seed)
    theirs = [[*random_detections(rng, 3), detection(950.0, 0.9)] for _ in range(3)]
    ours = [random_detections(rng, count) + found[:2] for found in theirs]
    pictures = [Answers(*pair) for pair in zip(ours, theirs, strict=True)]
    truth = [
        GroundTruthBox(image, 0, found.box)
        for image, answers in enumerate(pictures)
        for found in answers.theirs
        if found.score > -1
    ]
    rows = [np.asarray([[*found.box, 0, found.score] for found in answers.ours]) for answers in pictures]
    wanted = CocoEvaluation(truth, rows, labels=1, ious=IOUS).average_precision()
    assert average_precision(pictures, box_threshold=-1) == pytest.approx(wanted, abs=0.02)


def test_scores_may_change_where_their_order_does_not():
    assert precision_of([replace(found, score=found.score**2) for found in THEIRS]) == 1


def test_false_alarm_above_an_answer_costs_precision_and_one_below_all_does_not():
    alarm = detection(0.0, 0.9, label=5)
    assert precision_of([*THEIRS, alarm]) < 0.9
    assert precision_of([*THEIRS, replace(alarm, score=0.1)]) == 1


def test_order_counts_over_pictures():
    pictures = [Answers([THEIRS[0]], [THEIRS[0]]), Answers([detection(500.0, 0.99)], [])]
    assert average_precision(pictures, box_threshold=THRESHOLD) == pytest.approx(0.5)


def test_other_label_is_no_answer():
    assert precision_of([replace(found, label_id=9) for found in THEIRS]) == 0


def test_box_that_moved_counts_at_the_ious_that_it_still_has():
    assert precision_of(
        [replace(found, box=(found.box[0] + 10, 0.0, found.box[2] + 10, 100.0)) for found in THEIRS]
    ) == pytest.approx(0.7)


def test_nothing_is_lost_where_nothing_was_found():
    assert precision_of([detection(0.0, 0.9)], theirs=[]) == 1
