"""Order of records: a pure function of the seed, so that a resumed run, or one with more workers, reads the same."""

from collections.abc import Sequence

import numpy as np

from models.data.records import Int64

PATTERN = 1000  # places dealt to the sets by weight, in an order that is drawn once and repeated


class Mixture:
    """Deals places 0, 1, 2, ... to sets by their weights, and counts the places a set has had before."""

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        shares = np.asarray(weights, np.float64) / sum(weights) * PATTERN
        counts = np.maximum(1, np.floor(shares)).astype(np.int64)
        while counts.sum() < PATTERN:  # in favour of the sets that lost most by rounding
            counts[np.argmax(shares - counts)] += 1
        while counts.sum() > PATTERN:
            counts[np.argmax(counts - shares + (counts > 1))] -= 1
        pattern = np.repeat(np.arange(len(counts)), counts)
        self._pattern = np.random.default_rng([seed, 1]).permutation(pattern)
        self._counts = counts
        # Places of each set before each place of the pattern [PATTERN, sets].
        hits = np.equal.outer(self._pattern, np.arange(len(counts)))
        self._before = np.cumsum(hits, axis=0) - hits

    def sets(self, places: Int64) -> Int64:
        """The set of each place."""
        return self._pattern[places % PATTERN]

    def ordinal(self, place: int) -> int:
        """Count the places before this one that its set has had."""
        rounds, rest = divmod(place, PATTERN)
        chosen = int(self._pattern[rest])
        return int(rounds * self._counts[chosen] + self._before[rest, chosen])

    def share(self, chosen: int) -> float:
        """The share of all places that a set has."""
        return float(self._counts[chosen] / PATTERN)


class EpochShuffle:
    """Every record of a set once an epoch, in an order drawn for each epoch."""

    def __init__(self, size: int, *, seed: int, number: int) -> None:
        self._size, self._seed, self._number = size, seed, number
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def index(self, ordinal: int) -> int:
        """The index of the record that is read as the `ordinal`-th."""
        epoch, place = divmod(ordinal, self._size)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, 2, self._number, epoch])
            self._epoch, self._order = epoch, rng.permutation(self._size)
        return int(self._order[place])
