import numpy as np
import pytest

from models.data.coco_evaluator import HALF, CocoEvaluation, GroundTruthBox

WIDE = (0.0, 0.0, 100.0, 10.0)


def found(*rows):
    return np.asarray(rows, np.float64).reshape(-1, 6)


def test_ap_is_the_mean_over_ten_iou_thresholds():
    # 72 of 100 columns: right at 0.50, 0.55, 0.60, 0.65 and 0.70, wrong at the five above.
    one = CocoEvaluation([GroundTruthBox(0, 0, WIDE)], [found([0, 0, 72, 10, 0, 0.9])], labels=1)
    assert one.average_precision() == pytest.approx(0.5)
    assert one.average_precision(iou=HALF) == pytest.approx(1)
    assert one.average_precision(iou=5) == 0  # 0.75
    assert one.average_recall() == pytest.approx(0.5)


def test_precision_between_recalls_is_the_best_at_any_higher_recall():
    truth = [GroundTruthBox(0, 0, (x, 0, x + 10, 10)) for x in (0, 100, 200)]
    rows = [[0, 0, 10, 10, 0, 0.9], [400, 0, 410, 10, 0, 0.8], [100, 0, 110, 10, 0, 0.7]]
    # Recall 1/3 at precision 1: recalls 0.00 to 0.33, 34 of 101; recall 2/3 at precision 2/3: up to 0.66, 33 more.
    one = CocoEvaluation(truth, [found(*rows)], labels=1)
    assert one.average_precision(iou=HALF) == pytest.approx((34 + 33 * 2 / 3) / 101)


def test_size_classes_go_by_area():
    truth = [
        GroundTruthBox(0, 0, (0, 0, 20, 20)),
        GroundTruthBox(0, 0, (100, 100, 200, 200)),
        GroundTruthBox(0, 0, (300, 0, 350, 50), area=900.0),
    ]
    rows = [[0, 0, 20, 20, 0, 0.9], [300, 0, 350, 50, 0, 0.8]]
    one = CocoEvaluation(truth, [found(*rows)], labels=1)
    assert one.average_precision(size="small") == pytest.approx(1)  # the last by its outline
    assert np.isnan(one.average_precision(size="medium"))
    assert one.average_precision(size="large") == 0


def test_detections_in_a_crowd_are_no_false_alarms():
    truth = [GroundTruthBox(0, 0, (0, 0, 10, 10)), GroundTruthBox(0, 0, (100, 0, 200, 100), crowd=True)]
    rows = [[120, 20, 150, 50, 0, 0.9], [130, 30, 160, 60, 0, 0.8], [0, 0, 10, 10, 0, 0.5]]
    one = CocoEvaluation(truth, [found(*rows)], labels=1)
    assert one.average_precision() == pytest.approx(1)
    assert one.matches().hit.tolist() == [True]
    assert len(one.matches().objects) == 1


def test_labels_that_do_not_occur_do_not_count():
    one = CocoEvaluation([GroundTruthBox(0, 1, WIDE)], [found([*WIDE, 1, 0.9], [*WIDE, 0, 0.95])], labels=3)
    assert one.average_precision() == pytest.approx(1)
    assert [np.isnan(ap) for ap, _ in one.by_label()] == [True, False, True]


def test_without_labels_a_confused_one_is_correct():
    truth, rows = [GroundTruthBox(0, 1, WIDE)], [found([*WIDE, 0, 0.9])]
    assert CocoEvaluation(truth, rows, labels=2).average_precision() == 0
    assert CocoEvaluation(truth, rows, labels=2, by_label=False).average_precision() == pytest.approx(1)


def test_matches_refer_to_detections_and_objects_by_index():
    truth = [
        GroundTruthBox(0, 0, (0, 0, 10, 10)),
        GroundTruthBox(1, 0, (0, 0, 10, 10)),
        GroundTruthBox(1, 1, (50, 50, 60, 60)),
    ]
    rows = [found([0, 0, 10, 10, 0, 0.4]), found([80, 80, 90, 90, 1, 0.9], [0, 0, 10, 10, 0, 0.6])]
    matches = CocoEvaluation(truth, rows, labels=2).matches()
    by_place = {
        (picture, row): (score, hit) for (picture, row, score), hit in zip(matches.found, matches.hit, strict=True)
    }
    assert by_place == {(0, 0): (0.4, True), (1, 0): (0.9, False), (1, 1): (0.6, True)}
    assert sorted(map(tuple, matches.objects)) == [(0, 0, 0.4), (1, 1, 0.6), (1, 2, -1)]


def test_no_detection_is_zero_and_no_object_is_nan():
    assert CocoEvaluation([GroundTruthBox(0, 0, WIDE)], [found()], labels=1).average_precision() == 0
    assert np.isnan(CocoEvaluation([], [found([*WIDE, 0, 0.9])], labels=1).average_precision())
    assert len(CocoEvaluation([], [found()], labels=1).matches().found) == 0
