import numpy as np
import pytest

from models.evaluation.retrieval import RetrievalMetric, best_ranks
from tests.models.evaluation.scripted_backend import ScriptedBackend, measured, query


def test_an_image_is_found_by_the_best_of_its_texts():
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0], "c": [0.8, 0.6]}
    # The second image is nearest to "c", a text of the first, and then to its own.
    images = iter([[1.0, 0.0], [0.6, 0.8]])
    backend = ScriptedBackend(embed=lambda image, texts: (next(images), [vectors[text] for text in texts]))
    figures = measured(RetrievalMetric(), backend, query("a", "c"), query("b")).figures
    assert figures["picture to text R@1"] == 0.5
    assert figures["picture to text R@5"] == 1
    # "a" and "b" find their image; "c" is nearer to the other (0.96) than to its own (0.8).
    assert figures["text to picture R@1"] == pytest.approx(2 / 3)


def test_images_with_equal_texts_all_match_them():
    images = iter([[1.0, 0.0], [0.0, 1.0]])
    backend = ScriptedBackend(embed=lambda image, texts: (next(images), [[0.0, 1.0]]))
    figures = measured(RetrievalMetric(), backend, query("a dog"), query("a dog")).figures
    assert (figures["texts"], figures["text to picture R@1"], figures["picture to text R@1"]) == (1, 1, 1)


def test_ranks_do_not_depend_on_the_chunk():
    rng = np.random.default_rng(0)
    rows, columns = rng.normal(size=(600, 4)).astype(np.float32), rng.normal(size=(50, 4)).astype(np.float32)
    matches = [[int(column)] for column in rng.integers(0, 50, 600)]
    cosines = rows @ columns.T
    expected = [int((line > line[one[0]]).sum()) for line, one in zip(cosines, matches, strict=True)]
    assert np.abs(best_ranks(rows, columns, matches) - expected).max() <= 1  # sums are rounded differently
    assert (best_ranks(rows, columns, matches) == expected).mean() > 0.99
