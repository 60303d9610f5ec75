from types import SimpleNamespace

import pytest

from models.synthetic.detection_task import DetectionTask
from models.training.average_precision import Found, Truth

BOX = (0.0, 0.0, 10.0, 10.0)


class Shifted:
    """A detector that tells which score it was to move."""

    def __init__(self):
        self.moved = []

    def shift(self, model, threshold, wanted):
        self.moved.append(threshold)
        return 1.0


@pytest.mark.parametrize(("alarms", "low", "high"), [([], 0.2, 0.3), ([0.35, 0.38, 0.39], 0.39, 0.5)])
def test_threshold_is_the_best_where_absent_things_are_asked_for_as_well(alarms, low, high):
    task = DetectionTask.__new__(DetectionTask)
    task.detector = Shifted()
    task.config = SimpleNamespace(rules=SimpleNamespace(box_threshold=0.9))
    truths = [Truth(number, "dog", BOX) for number in range(3)]
    found = [Found(number, "dog", BOX, score) for number, score in enumerate((0.6, 0.5, 0.3))]
    found.append(Found(0, "cat", BOX, 0.2))
    task._held_out_answers = lambda _: (truths, found, [Found(1, "cow", BOX, score) for score in alarms])
    task.finish(None)
    assert low < task.detector.moved[0] < high
