import numpy as np
import pytest

from models.data.coco_evaluator import GroundTruthBox
from models.evaluation.detection import DetectionMetric
from tests.models.evaluation.scripted_backend import AWAY, LEFT, RIGHT, ScriptedBackend, measured, query

LABELS = ("cat", "dog")


def detected(rows_by_image, *targets):
    answers = iter(rows_by_image)
    backend = ScriptedBackend(detect=lambda image, labels: next(answers))
    queries = [query(*(LABELS[label] for label in labels), target=(labels, boxes)) for labels, boxes in targets]
    return measured(DetectionMetric(LABELS, max_detections=5), backend, *queries)


def test_labels_are_counted_by_their_index_in_the_set():
    """The second image is asked for "dog" alone, which is index 0 of its query and 1 of the set."""
    result = detected(
        [[(LEFT, 0, 0.9), (RIGHT, 1, 0.8)], [(LEFT, 0, 0.7)]],
        ((0, 1), [GroundTruthBox(0, 0, LEFT), GroundTruthBox(0, 1, RIGHT)]),
        ((1,), [GroundTruthBox(0, 1, LEFT)]),
    )
    assert result.figures["AP"] == pytest.approx(1)
    assert result.details["labels"].keys() == {"cat", "dog"}


def test_a_confused_label_counts_for_any_label_only():
    figures = detected([[(LEFT, 0, 0.9)]], ((0, 1), [GroundTruthBox(0, 1, LEFT)])).figures
    assert (figures["AP50"], figures["AP50, any label"]) == (0, pytest.approx(1))
    result = detected([[(LEFT, 0, 0.9), (AWAY, 1, 0.8)]], ((0, 1), [GroundTruthBox(0, 1, LEFT)]))
    assert result.details["confusions"] == [["dog", "cat", 1], ["nothing", "dog", 1]]


def test_best_f1_comes_with_its_threshold():
    # Down to 0.8: 2 of 2 objects and no false alarm; the box at 0.6 is false.
    rows = [(LEFT, 0, 0.9), (RIGHT, 0, 0.8), (AWAY, 0, 0.6)]
    figures = detected([rows], ((0, 1), [GroundTruthBox(0, 0, LEFT), GroundTruthBox(0, 0, RIGHT)])).figures
    assert (figures["best F1 (IoU 0.5)"], figures["threshold of the best F1"]) == (1, 0.8)


def test_examples_show_the_best_the_worst_false_alarms_and_misses():
    result = detected(
        [[(LEFT, 0, 0.9)], [(AWAY, 1, 0.8), (LEFT, 1, 0.2)]],
        ((0, 1), [GroundTruthBox(0, 0, LEFT)]),
        ((0, 1), [GroundTruthBox(0, 1, LEFT)]),
    )
    captions = [(example.kind, example.caption) for example in result.examples]
    assert captions == [
        ("best", "1 of 1 objects found, 0 false"),
        ("worst", "0 of 1 objects found, 1 false"),
        ("false alarms", "dog 0.80"),
        ("misses", "missed dog"),
    ]
    assert result.examples[-1].boxes[0].score == pytest.approx(1)  # IoU with the detection below the threshold


def test_no_image_is_among_the_best_and_the_worst_where_all_are_equal():
    found = [[(LEFT, 0, 0.9)]] * 3
    result = detected(found, *[((0, 1), [GroundTruthBox(0, 0, LEFT)])] * 3)
    shown = [id(example.query) for example in result.examples if example.kind in ("best", "worst")]
    assert len(shown) == len(set(shown)) == 3


def test_nothing_annotated_gives_no_figure():
    figures = detected([[(LEFT, 0, 0.9)]], ((0, 1), [])).figures
    assert np.isnan(figures["AP"])
    assert np.isnan(figures["best F1 (IoU 0.5)"])
