from models.evaluation.grounding import GroundingMetric
from tests.models.evaluation.scripted_backend import AWAY, BOTH, LEFT, RIGHT, ScriptedBackend, boxes, measured, query


def grounded(rows, *target):
    phrases = query(*(f"phrase {number}" for number in range(len(target))), target=target)
    return measured(GroundingMetric(), ScriptedBackend(detect=lambda image, labels: rows), phrases)


def test_a_phrase_is_found_at_the_rank_of_its_first_correct_box():
    rows = [(AWAY, 0, 0.9), (RIGHT, 0, 0.8), (LEFT, 0, 0.7), (LEFT, 1, 0.6)]
    figures = grounded(rows, boxes(LEFT), boxes(LEFT)).figures
    assert figures["R@1, any box"] == 0.5
    assert figures["R@5, any box"] == 1
    assert figures["phrases"] == 2


def test_any_box_accepts_one_of_several_and_merged_box_the_box_around_them():
    any_box = grounded([(LEFT, 0, 0.9)], boxes(LEFT, RIGHT)).figures
    around = grounded([(BOTH, 0, 0.9)], boxes(LEFT, RIGHT)).figures
    assert (any_box["R@1, any box"], any_box["R@1, merged box"]) == (1, 0)
    assert (around["R@1, any box"], around["R@1, merged box"]) == (0, 1)


def test_boxes_beyond_the_tenth_or_of_another_phrase_do_not_count():
    rows = [*((AWAY, 0, 0.9 - 0.01 * number) for number in range(10)), (LEFT, 0, 0.5), (LEFT, 1, 0.95)]
    result = grounded(rows, boxes(LEFT), boxes(RIGHT))
    assert result.figures["R@10, any box"] == 0
    assert [example.caption for example in result.examples] == ["'phrase 1'", "'phrase 0'"]


def test_a_repeated_phrase_is_asked_for_once():
    backend = ScriptedBackend(detect=lambda image, labels: [(LEFT, 0, 0.9)])
    repeated = query("a dog", "a dog", target=(boxes(LEFT), boxes(RIGHT)))
    assert measured(GroundingMetric(), backend, repeated).figures["R@1, any box"] == 0.5
    assert backend.asked == [("a dog",)]
