import numpy as np
import pytest

from models.evaluation.calibration import best_f1, calibration_error, reliability_diagram, score_histogram


def arrays(*rows):
    scores, correct = zip(*rows, strict=True)
    return np.asarray(scores), np.asarray(correct)


def test_calibrated_scores_have_no_error():
    scores, correct = arrays(*[(0.75, True)] * 3, (0.75, False), (0.25, True), *[(0.25, False)] * 3)
    assert calibration_error(scores, correct) == pytest.approx(0)


def test_the_error_is_weighted_by_the_count_of_each_bin():
    scores, correct = arrays(*[(0.95, False)] * 3, (0.05, False))
    assert calibration_error(scores, correct) == pytest.approx((3 * 0.95 + 0.05) / 4)


def test_a_score_of_one_belongs_to_the_last_bin():
    ((x, y),) = reliability_diagram("name", "title", *arrays((1.0, True), (0.9, False))).lines.values()
    assert x.tolist() == pytest.approx([0.95])
    assert y.tolist() == [0.5]


def test_the_histogram_counts_every_answer_once():
    lines = score_histogram("name", "title", *arrays((0.0, True), (1.0, False), (0.52, False), (0.53, True))).lines
    assert {name: int(y.sum()) for name, (_, y) in lines.items()} == {"correct": 2, "wrong": 2}


def test_the_best_f1_comes_with_its_lowest_score():
    # Of 3 objects 2 are found above 0.6, with one false alarm: F1 2 * 2 / (3 + 3).
    scores, correct = arrays((0.9, True), (0.8, False), (0.6, True), (0.5, False), (0.4, False))
    assert best_f1(scores, correct, 3) == (0.6, pytest.approx(2 / 3))


def test_without_answers_there_is_no_figure():
    none = np.zeros(0), np.zeros(0, bool)
    assert np.isnan(calibration_error(*none))
    assert np.isnan(best_f1(*none, 3)).all()
