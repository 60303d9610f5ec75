"""AP50, false alarms and calibration of a detector on held-out pictures."""

from typing import Any

import pytest

from models.training.detection_metrics import LabelledBox
from models.training.detection_task import DetectionTask, HeldOutResults
from server.contract.manifest import DetectionRules
from tests.models import small_glip

BOX = (0.0, 0.0, 10.0, 10.0)
TRUTHS = [LabelledBox(number, "dog", BOX) for number in range(3)]
FOUND = [LabelledBox(number, "dog", BOX, score) for number, score in enumerate((0.6, 0.5, 0.3))]


class Shifted:
    """An adapter that notes which score it was to move."""

    def __init__(self) -> None:
        self.moved: list[float] = []

    def shift(self, model: Any, threshold: float, wanted: float) -> float:
        self.moved.append(threshold)
        return 1.0


class Found(DetectionTask):
    """A task with given results on held-out pictures."""

    def __init__(self, results: HeldOutResults, adapter: Any, **options: Any) -> None:
        model = small_glip.random_model(small_glip.RESNET)
        data: Any = type("Data", (), {"training": None, "held_out": None})
        rules = DetectionRules(box_threshold=0.9, text_threshold=0.2)
        super().__init__(model, adapter, None, data, rules=rules, **options)
        self.results = results

    def _results(self, model: Any, batches: Any) -> HeldOutResults:
        return self.results


@pytest.mark.parametrize(("alarms", "low", "high"), [([], 0.2, 0.3), ([0.35, 0.38, 0.39], 0.39, 0.5)])
def test_threshold_is_the_best_where_absent_things_are_asked_for_as_well(alarms: list[float], low: float, high: float):
    found = [*FOUND, LabelledBox(0, "cat", BOX, 0.2)]
    results = HeldOutResults([], TRUTHS, found, [LabelledBox(1, "cow", BOX, score) for score in alarms], {0, 1, 2})
    adapter = Shifted()
    figures = Found(results, adapter, calibrate=True).finish(small_glip.random_model(small_glip.RESNET))
    assert low < adapter.moved[0] < high
    assert figures["best_threshold"] == adapter.moved[0]
    assert figures["logit_shift"] == len(adapter.moved) == 5


def test_scores_are_kept_unless_the_recipe_calibrates_them():
    adapter = Shifted()
    assert Found(HeldOutResults([], TRUTHS, FOUND), adapter).finish(small_glip.random_model(small_glip.RESNET)) == {
        "pictures_left_out": 0.0
    }
    assert adapter.moved == []


def test_the_quiet_threshold_leaves_pictures_asked_for_absent_things_alone_without_a_box():
    alarms = [LabelledBox(number, "cow", BOX, 0.4) for number in (0, 0, 1)]
    figures = Found(HeldOutResults([2.0, 4.0], TRUTHS, FOUND, alarms, {0, 1, 2}), Shifted()).validate(None)
    assert figures["validation_loss"] == 3.0
    assert figures["validation_ap50"] == figures["validation_ap"] == pytest.approx(1.0)
    assert {name for name in figures if name.startswith("ap/")} == {f"ap/{one.label}" for one in TRUTHS}
    assert figures["quiet_threshold"] == pytest.approx(0.4)
    assert figures["quiet_recall"] == pytest.approx(2 / 3)


def test_without_boxed_labels_there_is_the_loss_alone():
    assert Found(HeldOutResults([2.0]), Shifted()).validate(None) == {"validation_loss": 2.0}
