"""Simulation of replicas under Poisson traffic: who waits how long, at rates and sizes that nobody has at hand.

It follows the server: images are decoded side by side, wait in a queue of `max_queue`, and run in batches of what
waits once the last run ends. Each request goes to a replica with the fewest in progress, as HAProxy's `leastconn`.
"""

import heapq
import itertools
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

_REQUESTS, _PER_REPLICA = 20_000, 50  # of a simulation, and more for each replica
_WARM_UP = 0.1  # of the requests, which meet queues that are still filling
_STEPS = 9  # of a search for a rate: within a five-hundredth of the range


@dataclass(frozen=True)
class ServingCosts:
    """Costs of a replica, in seconds: of decoding an image, of a run and of each image in it, and of all else.

    decoders: images that are decoded at a time, 0 for any number. spread: a factor for each cost, drawn anew.
    """

    setup_s: float
    image_s: float
    decode_s: float = 0.0
    rest_s: float = 0.0
    max_batch: int = 8
    max_queue: int = 64
    decoders: int = 0
    spread: Callable[[random.Random], float] = lambda _: 1.0

    @property
    def capacity(self) -> float:
        """Requests a second that full batches answer."""
        return self.max_batch / (self.setup_s + self.max_batch * self.image_s)


@dataclass(frozen=True)
class SimulatedTraffic:
    """Latencies in seconds of the requests that were answered, and the number of those refused (429)."""

    latencies_s: Sequence[float]
    refused: int

    def good_share(self, objective_s: float) -> float:
        """The share of all requests that were answered within so many seconds."""
        return sum(each <= objective_s for each in self.latencies_s) / (len(self.latencies_s) + self.refused)


@dataclass(eq=False)
class _Replica:
    to_decode: deque[float] = field(default_factory=deque)
    waiting: deque[float] = field(default_factory=deque)  # by the time of arrival, as the others
    decoding: int = 0
    running: bool = False
    in_progress: int = 0


class _LeastBusy:
    """Replicas by their number of requests in progress; equals take turns."""

    def __init__(self, replicas: Sequence[_Replica]) -> None:
        self._by_count: dict[int, OrderedDict[_Replica, None]] = {0: OrderedDict.fromkeys(replicas)}
        self._least = 0

    def take(self) -> _Replica:
        while not self._by_count.get(self._least):
            self._least += 1
        replica = next(iter(self._by_count[self._least]))
        self._move(replica, 1)
        return replica

    def give_back(self, replica: _Replica) -> None:
        self._move(replica, -1)
        self._least = min(self._least, replica.in_progress)

    def _move(self, replica: _Replica, change: int) -> None:
        del self._by_count[replica.in_progress][replica]
        replica.in_progress += change
        self._by_count.setdefault(replica.in_progress, OrderedDict())[replica] = None


class _Simulation:
    def __init__(self, costs: ServingCosts, replicas: int, seed: int) -> None:
        self._costs, self._chance = costs, random.Random(f"costs {seed}")  # else as the arrivals
        self._balance = _LeastBusy([_Replica() for _ in range(replicas)])
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self.answered: list[tuple[float, float]] = []  # arrival, and seconds until the answer
        self.refused: list[float] = []

    def run(self, arrivals: Iterable[float]) -> None:
        for at in arrivals:
            while self._events and self._events[0][0] <= at:
                self._next()
            self._arrive(at)
        while self._events:
            self._next()

    def _next(self) -> None:
        at, _, act = heapq.heappop(self._events)
        act(at)

    def _after(self, now: float, seconds: float, act: Callable[[float], None]) -> None:
        factor = self._costs.spread(self._chance) if seconds else 1.0
        heapq.heappush(self._events, (now + seconds * factor, next(self._numbers), act))

    def _arrive(self, now: float) -> None:
        replica = self._balance.take()
        running = self._costs.max_batch if replica.running else 0
        if replica.in_progress - 1 - running >= self._costs.max_queue:
            self.refused.append(now)
            self._balance.give_back(replica)
            return
        replica.to_decode.append(now)
        self._decode(replica, now)

    def _decode(self, replica: _Replica, now: float) -> None:
        while replica.to_decode and (not self._costs.decoders or replica.decoding < self._costs.decoders):
            arrived = replica.to_decode.popleft()
            replica.decoding += 1

            def decoded(at: float, arrived: float = arrived) -> None:
                replica.decoding -= 1
                replica.waiting.append(arrived)
                self._decode(replica, at)
                self._start(replica, at)

            self._after(now, self._costs.decode_s, decoded)

    def _start(self, replica: _Replica, now: float) -> None:
        """Start a run of what waits, unless one is in progress."""
        if replica.running or not replica.waiting:
            return
        batch = [replica.waiting.popleft() for _ in range(min(self._costs.max_batch, len(replica.waiting)))]
        replica.running = True

        def ended(at: float) -> None:
            replica.running = False
            for arrived in batch:
                self.answered.append((arrived, at - arrived + self._costs.rest_s))
                self._balance.give_back(replica)
            self._start(replica, at)

        self._after(now, self._costs.setup_s + len(batch) * self._costs.image_s, ended)


def simulate(
    costs: ServingCosts, *, rate: float, replicas: int = 1, requests: int | None = None, seed: int = 0
) -> SimulatedTraffic:
    """Simulate so many requests (enough for the replicas, by default) at `rate` a second; the first tenth is left out.

    The same seed gives the same requests.
    """
    count, chance, at = requests or _REQUESTS + _PER_REPLICA * replicas, random.Random(seed), 0.0
    times = [at := at + chance.expovariate(rate) for _ in range(count)]
    return replay(costs, times, replicas=replicas, since=times[int(_WARM_UP * count)], seed=seed)


def replay(
    costs: ServingCosts, arrivals: Sequence[float], *, replicas: int = 1, since: float = 0.0, seed: int = 0
) -> SimulatedTraffic:
    """Simulate requests that arrive at these seconds, in order; those before `since` are left out."""
    simulation = _Simulation(costs, replicas, seed)
    simulation.run(arrivals)
    latencies = [seconds for arrived, seconds in simulation.answered if arrived >= since]
    return SimulatedTraffic(latencies, sum(arrived >= since for arrived in simulation.refused))


def sustained_rate(costs: ServingCosts, *, replicas: int, objective_s: float, share: float) -> float:
    """The highest rate at which so great a share is answered within `objective_s`; 0 where no rate is low enough."""
    low, high = 0.0, 1.1 * replicas * costs.capacity
    for _ in range(_STEPS):
        rate = (low + high) / 2
        held = simulate(costs, rate=rate, replicas=replicas).good_share(objective_s) >= share
        low, high = (rate, high) if held else (low, rate)
    return low


def needed_replicas(costs: ServingCosts, *, rate: float, objective_s: float, share: float) -> int | None:
    """The least number of replicas for `rate`; None where even a request alone takes longer than `objective_s`."""

    def held(count: int) -> bool:
        return simulate(costs, rate=rate, replicas=count).good_share(objective_s) >= share

    low = max(1, math.floor(rate / costs.capacity)) - 1  # fewer cannot be enough
    if low and held(low):
        low = 0
    high = low + 1
    while not held(high):
        if rate / high < 0.01 * costs.capacity:
            return None
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if held(middle) else (middle, high)
    return high
