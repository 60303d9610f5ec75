"""Criteria for pseudo-labels: GLIP's."""

from models.pseudo_labels.grounding_filter import GroundingFilter


def test_least_score_is_that_of_the_paper():
    assert GroundingFilter().threshold == 0.5
    assert GroundingFilter().complete is False
