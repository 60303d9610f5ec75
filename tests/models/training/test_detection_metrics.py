import math
from typing import Any

import pytest

from models.training.detection_metrics import (
    LabelledBox,
    average_precisions,
    best_f1_threshold,
    evaluation,
    quiet_threshold,
    recall_above,
)

BOX, FAR = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def average_precision(truths: list[LabelledBox], found: list[LabelledBox], **options: Any) -> float:
    return evaluation(truths, found, **options).average_precision()


def test_finding_everything_is_one():
    truths = [LabelledBox(0, "dog", BOX), LabelledBox(1, "dog", FAR)]
    assert average_precision(
        truths, [LabelledBox(0, "dog", BOX, 0.9), LabelledBox(1, "dog", FAR, 0.8)], ious=(0.5,)
    ) == pytest.approx(1.0)


def test_finding_half_covers_the_recall_points_up_to_a_half():
    truths = [LabelledBox(0, "dog", BOX), LabelledBox(1, "dog", FAR)]
    assert average_precision(truths, [LabelledBox(0, "dog", BOX, 0.9)], ious=(0.5,)) == pytest.approx(51 / 101)


def test_a_false_alarm_above_halves_the_precision():
    found = [LabelledBox(0, "dog", FAR, 0.9), LabelledBox(0, "dog", BOX, 0.5)]
    assert average_precision([LabelledBox(0, "dog", BOX)], found, ious=(0.5,)) == pytest.approx(0.5)


def test_a_false_alarm_below_costs_nothing():
    found = [LabelledBox(0, "dog", BOX, 0.9), LabelledBox(0, "dog", FAR, 0.5)]
    assert average_precision([LabelledBox(0, "dog", BOX)], found, ious=(0.5,)) == pytest.approx(1.0)


def test_a_second_detection_of_one_object_is_a_false_alarm():
    truths = [LabelledBox(0, "dog", BOX), LabelledBox(0, "dog", FAR)]
    found = [LabelledBox(0, "dog", BOX, 0.9), LabelledBox(0, "dog", BOX, 0.8), LabelledBox(0, "dog", FAR, 0.7)]
    # Recall 1/2 at precision 1, recall 1 at precision 2/3.
    assert average_precision(truths, found, ious=(0.5,)) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_box_in_another_picture_is_no_match():
    assert average_precision([LabelledBox(0, "dog", BOX)], [LabelledBox(1, "dog", BOX, 0.9)], ious=(0.5,)) == 0.0


def test_overlap_below_the_threshold_is_no_match():
    # Overlap 50, union 150.
    found = [LabelledBox(0, "dog", (5.0, 0.0, 15.0, 10.0), 0.9)]
    assert average_precision([LabelledBox(0, "dog", BOX)], found, ious=(0.5,)) == 0.0
    assert average_precision([LabelledBox(0, "dog", BOX)], found, ious=(0.3,)) == pytest.approx(1.0)


def test_the_mean_is_over_the_labels_that_occur():
    truths = [LabelledBox(0, "dog", BOX), LabelledBox(0, "cat", FAR)]
    found = [LabelledBox(0, "dog", BOX, 0.9), LabelledBox(0, "bird", FAR, 0.9)]
    assert average_precision(truths, found) == pytest.approx(0.5)
    assert average_precision(truths, found, by_label=False) == pytest.approx(1.0)


def test_without_any_object_there_is_no_figure():
    assert math.isnan(average_precision([], [LabelledBox(0, "dog", BOX, 0.9)]))


def test_the_threshold_lies_between_right_and_wrong_detections():
    truths = [LabelledBox(0, "dog", BOX), LabelledBox(1, "dog", FAR)]
    found = [
        LabelledBox(0, "dog", BOX, 0.5),
        LabelledBox(1, "dog", FAR, 0.4),
        LabelledBox(2, "cat", BOX, 0.2),
        LabelledBox(3, "dog", BOX, 0.1),
    ]
    assert best_f1_threshold(truths, found) == pytest.approx(0.3)


def test_without_detections_there_is_no_threshold():
    with pytest.raises(ValueError, match="for 1 objects"):
        best_f1_threshold([LabelledBox(0, "dog", BOX)], [])


def test_a_quiet_threshold_leaves_the_share_of_pictures_asked_for_without_anything():
    highest = [place / 20 for place in range(20)]
    threshold = quiet_threshold(highest, 0.95)
    assert sum(score <= threshold for score in highest) >= 19
    assert sum(score <= threshold - 0.05 for score in highest) < 19


def test_recall_counts_detections_above_a_score_that_match():
    truths = [LabelledBox(0, "dog", BOX), LabelledBox(0, "cat", FAR)]
    found = [LabelledBox(0, "dog", BOX, 0.9), LabelledBox(0, "cat", FAR, 0.3), LabelledBox(0, "dog", FAR, 0.8)]
    assert recall_above(truths, found, 0.5) == 0.5
    assert recall_above(truths, found, 0.2) == 1.0
    assert recall_above(truths, found, 0.95) == 0.0


def test_average_precision_is_told_for_all_labels_and_each():
    near = (0.0, 0.0, 10.0, 8.0)  # an IoU of 0.8: found at six or seven of the ten thresholds
    truths = [LabelledBox(0, "dog", BOX), LabelledBox(0, "cat", FAR)]
    figures = average_precisions(truths, [LabelledBox(0, "dog", near, 0.9), LabelledBox(0, "cow", FAR, 0.9)])
    assert figures["validation_ap50"] == pytest.approx(0.5)
    assert figures["ap/dog"] == pytest.approx(0.65, abs=0.06)
    assert figures["ap/cat"] == 0
    assert figures["validation_ap"] == pytest.approx(figures["ap/dog"] / 2)
    assert figures.keys() == {"validation_ap", "validation_ap50", "ap/dog", "ap/cat"}
