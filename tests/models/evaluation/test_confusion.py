"""Pairs of objects and detections."""

import numpy as np

from models.data.coco_evaluator import GroundTruthBox
from models.evaluation.confusion import NOTHING, confusions

LEFT, RIGHT, FAR = (0.0, 0.0, 10.0, 10.0), (20.0, 0.0, 30.0, 10.0), (80.0, 80.0, 90.0, 90.0)
DOG, CAT = 0, 1


def rows(*found):
    return np.asarray([[*box, label, score] for box, label, score in found], np.float64).reshape(-1, 6)


def test_object_found_under_another_label_is_a_confusion():
    truth = [GroundTruthBox(0, DOG, LEFT), GroundTruthBox(0, CAT, RIGHT), GroundTruthBox(1, CAT, LEFT)]
    found = [rows((LEFT, CAT, 0.9), (RIGHT, CAT, 0.8), (FAR, DOG, 0.7), (FAR, CAT, 0.1)), rows()]
    assert confusions(truth, found, 0.3) == {(DOG, CAT): 1, (CAT, CAT): 1, (NOTHING, DOG): 1, (CAT, NOTHING): 1}


def test_object_is_found_once_by_the_best_detection():
    found = [rows((LEFT, DOG, 0.5), (LEFT, CAT, 0.9))]
    assert confusions([GroundTruthBox(0, DOG, LEFT)], found, 0.3) == {(DOG, CAT): 1, (NOTHING, DOG): 1}


def test_crowd_is_neither_found_nor_missed():
    truth = [GroundTruthBox(0, DOG, LEFT, None, True)]
    assert confusions(truth, [rows((LEFT, DOG, 0.9), (FAR, DOG, 0.9))], 0.3) == {(NOTHING, DOG): 1}
    assert confusions(truth, [rows()], 0.3) == {}


def test_set_without_objects_or_detections_has_only_false_alarms():
    assert confusions([], [rows((LEFT, DOG, 0.9)), rows()], 0.3) == {(NOTHING, DOG): 1}
