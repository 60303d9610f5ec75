import math

import pytest

from models.training.average_precision import Found, Truth, mean_average_precision

BOX, FAR = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def test_finding_everything_is_one():
    truths = [Truth(0, "dog", BOX), Truth(1, "dog", FAR)]
    assert mean_average_precision(
        truths, [Found(0, "dog", BOX, 0.9), Found(1, "dog", FAR, 0.8)], iou=0.5
    ) == pytest.approx(1.0)


def test_finding_half_covers_the_recall_points_up_to_a_half():
    truths = [Truth(0, "dog", BOX), Truth(1, "dog", FAR)]
    assert mean_average_precision(truths, [Found(0, "dog", BOX, 0.9)], iou=0.5) == pytest.approx(51 / 101)


def test_a_false_alarm_above_halves_the_precision():
    found = [Found(0, "dog", FAR, 0.9), Found(0, "dog", BOX, 0.5)]
    assert mean_average_precision([Truth(0, "dog", BOX)], found, iou=0.5) == pytest.approx(0.5)


def test_a_false_alarm_below_costs_nothing():
    found = [Found(0, "dog", BOX, 0.9), Found(0, "dog", FAR, 0.5)]
    assert mean_average_precision([Truth(0, "dog", BOX)], found, iou=0.5) == pytest.approx(1.0)


def test_a_second_detection_of_one_object_is_a_false_alarm():
    truths = [Truth(0, "dog", BOX), Truth(0, "dog", FAR)]
    found = [Found(0, "dog", BOX, 0.9), Found(0, "dog", BOX, 0.8), Found(0, "dog", FAR, 0.7)]
    # Recall 1/2 at precision 1, recall 1 at precision 2/3.
    assert mean_average_precision(truths, found, iou=0.5) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_in_another_picture_is_no_match():
    assert mean_average_precision([Truth(0, "dog", BOX)], [Found(1, "dog", BOX, 0.9)], iou=0.5) == 0.0


def test_overlap_below_the_threshold_is_no_match():
    # Overlap 50, union 150.
    found = [Found(0, "dog", (5.0, 0.0, 15.0, 10.0), 0.9)]
    assert mean_average_precision([Truth(0, "dog", BOX)], found, iou=0.5) == 0.0
    assert mean_average_precision([Truth(0, "dog", BOX)], found, iou=0.3) == pytest.approx(1.0)


def test_the_mean_is_over_the_labels_that_occur():
    truths = [Truth(0, "dog", BOX), Truth(0, "cat", FAR)]
    found = [Found(0, "dog", BOX, 0.9), Found(0, "bird", FAR, 0.9)]
    assert mean_average_precision(truths, found) == pytest.approx(0.5)
    assert mean_average_precision(truths, found, by_label=False) == pytest.approx(1.0)


def test_without_any_object_there_is_no_figure():
    assert math.isnan(mean_average_precision([], [Found(0, "dog", BOX, 0.9)]))
