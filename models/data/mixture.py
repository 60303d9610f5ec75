"""Which record comes when: a pure function of the seed, so that a resumed run, or one of more workers, reads alike."""

from collections.abc import Sequence

import numpy as np

from models.data.records import Int64

PATTERN = 1000  # places in which the sets stand by their weights, in an order that is drawn once


class Mixture:
    """Deals places 0, 1, 2, ... to sets by their weights, and tells how many of them a set has had before."""

    def __init__(self, weights: Sequence[float], *, seed: int) -> None:
        shares = np.asarray(weights, np.float64) / sum(weights) * PATTERN
        counts = np.maximum(1, np.floor(shares)).astype(np.int64)
        while counts.sum() < PATTERN:  # to those that lost most by rounding
            counts[np.argmax(shares - counts)] += 1
        while counts.sum() > PATTERN:
            counts[np.argmax(counts - shares + (counts > 1))] -= 1
        pattern = np.repeat(np.arange(len(counts)), counts)
        self._pattern = np.random.default_rng([seed, 1]).permutation(pattern)
        self._counts = counts
        # Of each set, how many of the pattern's first places it has [PATTERN, sets].
        hits = np.equal.outer(self._pattern, np.arange(len(counts)))
        self._before = np.cumsum(hits, axis=0) - hits

    def sets(self, places: Int64) -> Int64:
        """The set of each place."""
        return self._pattern[places % PATTERN]

    def ordinal(self, place: int) -> int:
        """How many places before this one its set has had."""
        rounds, rest = divmod(place, PATTERN)
        chosen = int(self._pattern[rest])
        return int(rounds * self._counts[chosen] + self._before[rest, chosen])


class Shuffled:
    """Every record of a set once an epoch, in an order drawn for each."""

    def __init__(self, size: int, *, seed: int, number: int) -> None:
        self._size, self._seed, self._number = size, seed, number
        self._epoch, self._order = -1, np.zeros(0, np.int64)

    def index(self, ordinal: int) -> int:
        """The record that is read as the `ordinal`-th."""
        epoch, place = divmod(ordinal, self._size)
        if epoch != self._epoch:
            rng = np.random.default_rng([self._seed, 2, self._number, epoch])
            self._epoch, self._order = epoch, rng.permutation(self._size)
        return int(self._order[place])
