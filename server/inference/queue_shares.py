"""Shares of a full queue: its last places are for clients that have had the least of it.

A client with a thousand images, or a network of a thousand clients, would otherwise take every place that gets free,
and the one client beside them would be refused again and again.
"""

import math
import time
from collections import Counter, OrderedDict
from collections.abc import Callable

from server.client_address import network_of

# One place in so many is kept from clients that have a waiting item, or have lately had half the average or more while
# another of their network has one; half as many from all others of a network that has one; and a quarter from a network
# that has none but has lately had its half. A network is an address's neighbourhood, a key is one of its own.
CLIENT_SHARE, NETWORK_SHARE, NEXT_SHARE = 8, 16, 32
WINDOW_S = 10.0  # what was had before counts less and less: a third after so long
_FORGOTTEN_S = 5 * WINDOW_S
_MAX_NAMES = 10_000


class QueueShares:
    """Places taken by client and by network. Used under the queue's lock."""

    def __init__(self, capacity: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._clients: Counter[str] = Counter()  # places, reserved and queued
        self._networks: Counter[str] = Counter()
        self._client_usage, self._network_usage = _Usage(clock), _Usage(clock)

    def kept_from(self, client: str) -> int:
        """Places that `client` ("": unknown, may take all) must leave free in a queue in which something waits."""
        if not client or not self._clients:
            return 0
        network = network_of(client)
        had_little = self._network_usage.is_low(network) or self._client_usage.is_low(client)
        if not self._networks[network]:
            return 0 if had_little else self._capacity // NEXT_SHARE
        had_little = had_little and not self._clients[client]
        return self._capacity // (NETWORK_SHARE if had_little else CLIENT_SHARE)

    def take(self, client: str, count: int) -> None:
        """Count `count` places as taken."""
        network = network_of(client)
        self._clients[client] += count
        self._networks[network] += count
        self._client_usage.add(client, count)
        self._network_usage.add(network, count)

    def give_back(self, client: str, count: int) -> None:
        """Count `count` places as free again."""
        self._clients -= Counter({client: count})  # keeps positive counts only
        self._networks -= Counter({network_of(client): count})


class _Usage:
    """Places taken lately, by name."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._epoch = clock, clock()
        # The places and the time of the last. Older ones weigh less since newer ones weigh more, from the epoch on.
        self._used: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._total = 0.0

    def is_low(self, name: str) -> bool:
        """True for less than half the average."""
        used, _ = self._used.get(name, (0.0, 0.0))
        return 2 * used * len(self._used) < self._total

    def add(self, name: str, count: int) -> None:
        now = self._clock()
        if now - self._epoch > 100 * WINDOW_S:  # before the weights overflow
            self._used.clear()
            self._total, self._epoch = 0.0, now
        weighted = count * math.exp((now - self._epoch) / WINDOW_S)
        self._used[name] = self._used.pop(name, (0.0, now))[0] + weighted, now
        self._total += weighted
        while len(self._used) > _MAX_NAMES or next(iter(self._used.values()))[1] < now - _FORGOTTEN_S:
            self._total -= self._used.popitem(last=False)[1][0]
