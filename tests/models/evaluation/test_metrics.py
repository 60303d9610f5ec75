"""Grounding, silence, classification and retrieval on answers that are worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from models.data.images import PictureFile
from models.evaluation.absent_labels import Silence
from models.evaluation.classification import Classification
from models.evaluation.grounding import Grounding
from models.evaluation.metrics import Question
from models.evaluation.retrieval import Retrieval, ranks
from tests.models.evaluation.answers import Written

LEFT, RIGHT, BOTH, AWAY = (0, 0, 10, 10), (30, 0, 40, 10), (0, 0, 40, 10), (60, 60, 70, 70)


def question(*texts, truth=None):
    return Question(PictureFile(Path("a.png")), "set.json: 1", texts, None, truth)


def boxes(*rows):
    return np.asarray(rows, np.float32)


def asked(measure, served, *questions):
    for one in questions:
        measure.add(one, measure.ask(served, one, b""))
    return measure.result(served)


def grounded(rows, *truth):
    one = question(*(f"phrase {number}" for number in range(len(truth))), truth=truth)
    return asked(Grounding(1, lambda: iter([])), Written(detect=lambda picture, labels: rows), one)


def test_a_phrase_is_found_at_the_rank_of_its_first_right_box():
    rows = [(AWAY, 0, 0.9), (RIGHT, 0, 0.8), (LEFT, 0, 0.7), (LEFT, 1, 0.6)]
    figures = grounded(rows, boxes(LEFT), boxes(LEFT)).figures
    assert figures["R@1, any box"] == 0.5
    assert figures["R@5, any box"] == 1
    assert figures["phrases"] == 2


def test_any_box_of_several_does_but_merged_wants_the_box_around_them():
    any_box = grounded([(LEFT, 0, 0.9)], boxes(LEFT, RIGHT)).figures
    around = grounded([(BOTH, 0, 0.9)], boxes(LEFT, RIGHT)).figures
    assert (any_box["R@1, any box"], any_box["R@1, merged box"]) == (1, 0)
    assert (around["R@1, any box"], around["R@1, merged box"]) == (0, 1)


def test_a_box_far_down_or_of_another_phrase_does_not_count():
    rows = [*((AWAY, 0, 0.9 - 0.01 * number) for number in range(10)), (LEFT, 0, 0.5), (LEFT, 1, 0.95)]
    result = grounded(rows, boxes(LEFT), boxes(RIGHT))
    assert result.figures["R@10, any box"] == 0
    assert [example.text for example in result.examples] == ["'phrase 1'", "'phrase 0'"]


def test_a_phrase_that_occurs_twice_is_asked_for_once():
    served = Written(detect=lambda picture, labels: [(LEFT, 0, 0.9)])
    one = question("a dog", "a dog", truth=(boxes(LEFT), boxes(RIGHT)))
    assert asked(Grounding(1, lambda: iter([])), served, one).figures["R@1, any box"] == 0.5
    assert served.asked == [("a dog",)]


def test_silence_is_nothing_above_the_models_own_threshold():
    scores = iter([0.5, 0.51, 0.2, None])

    def detect(picture, labels):
        score = next(scores)
        return [] if score is None else [(LEFT, 0, score)]

    result = asked(Silence("absent", 4, lambda: iter([])), Written(detect=detect), *[question("a cat")] * 4)
    assert result.figures == {"silent": 0.75, "threshold": 0.5, "questions": 4}
    assert [example.text for example in result.examples] == ["a cat"]
    ((x, y),) = result.plots[0].lines.values()
    assert (y[x == 0.51].item(), y[0]) == (1, 0.25)


def test_names_are_ranked_and_the_rare_ones_count_as_much_in_the_mean():
    answers = iter([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.3, 0.2]])
    measure = Classification(3, lambda: iter([]), ("dog", "cat", "key"), ())
    served = Written(classify=lambda picture, labels: next(answers))
    one = [question("dog", "cat", "key", truth=truth) for truth in (0, 0, 2)]
    figures = asked(measure, served, *one).figures
    assert figures["top-1"] == pytest.approx(2 / 3)
    assert figures["top-5"] == 1
    assert figures["top-1, mean over names"] == 0.5


def test_retrieval_takes_the_best_of_a_pictures_texts():
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.8, 0.6]}
    # The second picture lies nearest to "c", a text of the first, and then to its own.
    pictures = iter([[1.0, 0.0], [0.6, 0.8]])
    served = Written(embed=lambda picture, texts: (next(pictures), [vectors[text] for text in texts]))
    figures = asked(Retrieval(2, lambda: iter([])), served, question("a", "c"), question("b")).figures
    assert figures["picture to text R@1"] == 0.5
    assert figures["picture to text R@5"] == 1
    # "a" and "b" find theirs; of "c" the other picture is nearer (0.96) than its own (0.8).
    assert figures["text to picture R@1"] == pytest.approx(2 / 3)


def test_pictures_with_the_same_text_are_all_right_for_it():
    pictures = iter([[1.0, 0.0], [0.0, 1.0]])
    served = Written(embed=lambda picture, texts: (next(pictures), [[0.0, 1.0]]))
    figures = asked(Retrieval(2, lambda: iter([])), served, question("a dog"), question("a dog")).figures
    assert (figures["texts"], figures["text to picture R@1"], figures["picture to text R@1"]) == (1, 1, 1)


def test_ranks_do_not_depend_on_how_many_rows_are_compared_at_once():
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=(600, 4)).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    right = [[int(place)] for place in rng.integers(0, 50, 600)]
    cosines = rows @ columns.T
    want = [int((line > line[one[0]]).sum()) for line, one in zip(cosines, right, strict=True)]
    assert np.abs(ranks(rows, columns, right) - want).max() <= 1  # sums are rounded differently
    assert (ranks(rows, columns, right) == want).mean() > 0.99
