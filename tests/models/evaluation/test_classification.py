import pytest

from models.evaluation.classification import ClassificationMetric
from tests.models.evaluation.scripted_backend import ScriptedBackend, measured, query


def test_the_mean_over_classes_weighs_rare_ones_equally():
    answers = iter([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.5, 0.3, 0.2]])
    backend = ScriptedBackend(classify=lambda image, labels: next(answers))
    queries = [query("dog", "cat", "key", target=target) for target in (0, 0, 2)]
    figures = measured(ClassificationMetric(("dog", "cat", "key"), ()), backend, *queries).figures
    assert figures["top-1"] == pytest.approx(2 / 3)
    assert figures["top-5"] == 1
    assert figures["top-1, mean over names"] == 0.5


def test_a_class_beyond_the_fifth_is_a_mistake_with_an_example():
    labels = tuple("abcdef")
    backend = ScriptedBackend(classify=lambda image, labels: [0.3, 0.2, 0.2, 0.2, 0.1, 0.0])
    result = measured(ClassificationMetric(labels, ()), backend, query(*labels, target=5), query(*labels, target=1))
    assert (result.figures["top-1"], result.figures["top-5"]) == (0, 0.5)
    assert [example.caption for example in result.examples] == [
        "'f' taken for 'a' (0.30)",
        "'b' taken for 'a' (0.30)",
    ]
