import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.mixture import PATTERN, EpochShuffle, Mixture


@settings(max_examples=30, deadline=None)
@given(weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_places_are_dealt_by_weight_and_counted_without_gaps(weights: list[float], seed: int):
    mixture = Mixture(weights, seed=seed)
    places = np.arange(3 * PATTERN)
    sets = mixture.sets(places)
    for chosen in range(len(weights)):
        own = places[sets == chosen]
        share = len(own) / len(places)
        assert abs(share - weights[chosen] / sum(weights)) <= 2 * len(weights) / PATTERN
        ordinals = [mixture.ordinal(int(place)) for place in own[:: max(1, len(own) // 50)]]
        assert ordinals == list(range(len(own)))[:: max(1, len(own) // 50)]


def test_sets_are_mixed_finely():
    sets = Mixture([1, 1], seed=0).sets(np.arange(100))
    assert 30 < sets.sum() < 70
    assert np.abs(np.diff(sets)).sum() > 30


def test_every_record_comes_once_an_epoch_in_a_new_order():
    shuffled = EpochShuffle(7, seed=0, number=0)
    order = [shuffled.index(ordinal) for ordinal in range(21)]
    assert all(sorted(order[start : start + 7]) == list(range(7)) for start in (0, 7, 14))
    assert order[:7] != order[7:14]
    assert [EpochShuffle(7, seed=0, number=0).index(ordinal) for ordinal in (20, 3)] == [order[20], order[3]]
