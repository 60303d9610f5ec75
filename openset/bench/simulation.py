"""Simulation of replicas under Poisson traffic: who waits how long, at rates and sizes that nobody has at hand.

It follows the server: images are decoded side by side, wait in a queue of `max_queue`, and once the last run ends, the
one that waits longest runs with those of its shape. Each request goes to a replica with the fewest in progress, as
HAProxy's `leastconn`.
"""

import heapq
import itertools
import math
import random
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

_REQUESTS, _PER_REPLICA = 20_000, 50  # of a simulation, and more for each replica
_WARM_UP = 0.1  # of the requests, which meet queues that are still filling
MOST_REPLICAS = 5000  # that are simulated
_STEPS = 9  # of a search for a rate: within a five-hundredth of the range


@dataclass(frozen=True)
class ServingCosts:
    """Costs of a replica, in seconds: of decoding an image, of a run and of each image in it, and of all else.

    shapes: share of the requests, and times `image_s` that such an image takes; only images of one shape share a run.
    setup_s: below 0 where an image takes longer among others than alone. decoders: images that are decoded at a time, 0
    for any number. spread: a factor for each cost, by chance or by the second at which it begins.
    """

    setup_s: float
    image_s: float
    decode_s: float = 0.0
    rest_s: float = 0.0
    max_batch: int = 8
    max_queue: int = 64
    decoders: int = 0
    shapes: Sequence[tuple[float, float]] = ((1.0, 1.0),)
    spread: Callable[[random.Random, float], float] = lambda *_: 1.0

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


class _Request(NamedTuple):
    arrived: float
    shape: int


@dataclass(eq=False)
class _Replica:
    to_decode: deque[_Request] = field(default_factory=deque)
    waiting: list[_Request] = field(default_factory=list)
    decoding: int = 0
    running: int = 0
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
        self._costs, self._seed = costs, seed
        self._chance = random.Random(f"costs {seed}")  # else as the arrivals
        self._balance = _LeastBusy([_Replica() for _ in range(replicas)])
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._numbers = itertools.count()
        self.answered: list[tuple[float, float]] = []  # arrival, and seconds until the answer
        self.refused: list[float] = []

    def run(self, arrivals: Iterable[float], shapes: Sequence[int] | None) -> None:
        times = list(arrivals)
        shares = [share for share, _ in self._costs.shapes]
        drawn = shapes or random.Random(f"shapes {self._seed}").choices(range(len(shares)), shares, k=len(times))
        for request in map(_Request, times, drawn):
            while self._events and self._events[0][0] <= request.arrived:
                self._next()
            self._arrive(request)
        while self._events:
            self._next()

    def _next(self) -> None:
        at, _, act = heapq.heappop(self._events)
        act(at)

    def _after(self, now: float, seconds: float, act: Callable[[float], None]) -> None:
        factor = self._costs.spread(self._chance, now) if seconds else 1.0
        heapq.heappush(self._events, (now + seconds * factor, next(self._numbers), act))

    def _arrive(self, request: _Request) -> None:
        replica = self._balance.take()
        if replica.in_progress - 1 - replica.running >= self._costs.max_queue:
            self.refused.append(request.arrived)
            self._balance.give_back(replica)
            return
        replica.to_decode.append(request)
        self._decode(replica, request.arrived)

    def _decode(self, replica: _Replica, now: float) -> None:
        while replica.to_decode and (not self._costs.decoders or replica.decoding < self._costs.decoders):
            request = replica.to_decode.popleft()
            replica.decoding += 1

            def decoded(at: float, request: _Request = request) -> None:
                replica.decoding -= 1
                replica.waiting.append(request)
                self._decode(replica, at)
                self._start(replica, at)

            self._after(now, self._costs.decode_s, decoded)

    def _start(self, replica: _Replica, now: float) -> None:
        """Start a run of what waits, unless one is in progress."""
        if replica.running or not replica.waiting:
            return
        shape = replica.waiting[0].shape
        batch = [request for request in replica.waiting if request.shape == shape][: self._costs.max_batch]
        for request in batch:
            replica.waiting.remove(request)
        replica.running = len(batch)

        def ended(at: float) -> None:
            replica.running = 0
            for request in batch:
                self.answered.append((request.arrived, at - request.arrived + self._costs.rest_s))
                self._balance.give_back(replica)
            self._start(replica, at)

        _, factor = self._costs.shapes[shape]
        self._after(now, self._costs.setup_s + len(batch) * factor * self._costs.image_s, ended)


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
    costs: ServingCosts,
    arrivals: Sequence[float],
    *,
    shapes: Sequence[int] | None = None,
    replicas: int = 1,
    since: float = 0.0,
    seed: int = 0,
) -> SimulatedTraffic:
    """Simulate requests that arrive at these seconds, in order; those before `since` are left out.

    shapes: index of each in the costs' shapes; by default drawn by their shares.
    """
    simulation = _Simulation(costs, replicas, seed)
    simulation.run(arrivals, shapes)
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
    """The least number of replicas for `rate`; None where MOST_REPLICAS are too few, or one alone is too slow."""

    def held(count: int) -> bool:
        return simulate(costs, rate=rate, replicas=count).good_share(objective_s) >= share

    low = max(1, math.floor(rate / costs.capacity)) - 1  # fewer cannot be enough
    if low >= MOST_REPLICAS:
        return None
    if low and held(low):
        low = 0
    high = low + 1
    while not held(high):
        if high >= MOST_REPLICAS or rate / high < 0.01 * costs.capacity:
            return None
        low, high = high, min(2 * high, MOST_REPLICAS)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if held(middle) else (middle, high)
    return high
