"""Fair scheduling: entries by priority, and within one priority round-robin between networks, then between clients.

A client is an API key or an address, and its network that of the address (`client_address.py`): whoever owns many
addresses gets no more turns than a neighbour has.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import chain, zip_longest
from typing import Generic, Protocol, TypeVar

from server.client_address import network_of
from server.request_context import PRIORITIES, Priority

# While both wait, an entry of lower priority leads one run in so many: it is slow, and never starves.
LOW_PRIORITY_TURN = 8


class Entry(Protocol):
    """An item that can wait; entries of one bucket may run together."""

    @property
    def bucket(self) -> object: ...
    @property
    def client(self) -> str: ...
    @property
    def priority(self) -> Priority: ...


Waiting = TypeVar("Waiting", bound=Entry)


Clients = OrderedDict[str, deque[Waiting]]


class FairQueue(Generic[Waiting]):
    """First in, first out for each client; rings of networks and of their clients, the one just served at the end."""

    def __init__(self) -> None:
        self._rings: dict[Priority, OrderedDict[str, Clients[Waiting]]] = {name: OrderedDict() for name in PRIORITIES}
        self._leads = 0  # runs led by the higher priority while the lower waited
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Waiting]:
        rings = (clients for ring in self._rings.values() for clients in ring.values())
        return chain.from_iterable(entries for clients in rings for entries in clients.values())

    def add(self, entry: Waiting) -> None:
        """Append `entry` behind its client's others; a client without any starts at the end of its ring."""
        clients = self._rings[entry.priority].setdefault(network_of(entry.client), OrderedDict())
        clients.setdefault(entry.client, deque()).append(entry)
        self._count += 1

    def remove(self, entry: Waiting) -> bool:
        """Remove `entry`, whose client keeps its turn; returns whether it was waiting."""
        ring, network = self._rings[entry.priority], network_of(entry.client)
        entries = ring[network].get(entry.client) if network in ring else None
        if entries is None or entry not in entries:
            return False
        entries.remove(entry)
        if not entries:
            del ring[network][entry.client]
        if not ring[network]:
            del ring[network]
        self._count -= 1
        return True

    def clear(self) -> list[Waiting]:
        """Remove all entries and return them."""
        entries = list(self)
        for ring in self._rings.values():
            ring.clear()
        self._count = 0
        return entries

    def pick(self, most: int) -> list[Waiting]:
        """The next run, at most `most` entries: the one whose turn it is, then those of its bucket, in turn.

        They stay in the queue until they are taken.
        """
        order = [priority for priority in PRIORITIES if self._rings[priority]]
        if not order:
            return []
        if len(order) > 1 and self._leads >= LOW_PRIORITY_TURN - 1:
            order.reverse()
        lead = next(iter(next(iter(self._rings[order[0]].values())).values()))[0]
        return list(chain.from_iterable(self._same_bucket(priority, lead.bucket) for priority in order))[:most]

    def take(self, entries: Sequence[Waiting]) -> None:
        """Remove the entries of a run; their clients and networks go to the end of the rings."""
        if entries:
            both = all(self._rings[priority] for priority in PRIORITIES)
            self._leads = self._leads + 1 if both and entries[0].priority == PRIORITIES[0] else 0
        for entry in entries:
            self.remove(entry)
            ring, network = self._rings[entry.priority], network_of(entry.client)
            if network in ring:
                ring.move_to_end(network)
                if entry.client in ring[network]:
                    ring[network].move_to_end(entry.client)

    def _same_bucket(self, priority: Priority, bucket: object) -> Iterator[Waiting]:
        """Entries of `bucket`: the first of each network, then the second of each, and so on; within one by client."""
        rings = self._rings[priority].values()
        return _in_turn(
            [
                _in_turn([[e for e in entries if e.bucket == bucket] for entries in clients.values()])
                for clients in rings
            ]
        )


def _in_turn(columns: Sequence[Iterable[Waiting]]) -> Iterator[Waiting]:
    """The first of each column, then the second of each, and so on."""
    return (entry for entry in chain.from_iterable(zip_longest(*columns)) if entry is not None)


@dataclass(eq=False)
class _Ticket:
    client: str
    priority: Priority
    bucket: object = None
    granted: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class FairSemaphore:
    """Semaphore whose waiters take turns as in a FairQueue. Used from the event loop's thread only, hence no lock.

    With `leave_room` a network holds no more slots than it leaves free, for those that come later: slots that are held
    for long would otherwise all be its own. An unknown client ("") may hold all.
    """

    def __init__(self, count: int, *, leave_room: bool = False) -> None:
        self._free, self._leave_room = count, leave_room
        self._held: Counter[str] = Counter()  # by network
        self._waiting: FairQueue[_Ticket] = FairQueue()

    @asynccontextmanager
    async def slot(self, *, client: str, priority: Priority) -> AsyncIterator[None]:
        """Hold a slot for the block."""
        if self._may_take(client):
            self._take(client)
        else:
            await self._wait(_Ticket(client, priority))
        try:
            yield
        finally:
            self._release(client)

    async def _wait(self, ticket: _Ticket) -> None:
        self._waiting.add(ticket)
        try:
            await ticket.granted
        except asyncio.CancelledError:
            self._waiting.remove(ticket)
            if not ticket.granted.cancelled():  # given a slot, and cancelled before it could use it
                self._release(ticket.client)
            raise

    def _may_take(self, client: str) -> bool:
        if not self._leave_room or not client:
            return self._free > 0
        held = self._held[network_of(client)]
        return held < self._free

    def _take(self, client: str) -> None:
        self._free -= 1
        self._held[network_of(client)] += 1

    def _release(self, client: str) -> None:
        self._free += 1
        self._held -= Counter({network_of(client): 1})  # keeps positive counts only
        while ticket := next((each for each in self._in_turn() if self._may_take(each.client)), None):
            self._waiting.take([ticket])
            self._take(ticket.client)
            ticket.granted.set_result(None)

    def _in_turn(self) -> list[_Ticket]:
        """The waiting tickets; one that is cancelled waits until its task notices."""
        most = len(self._waiting) if self._leave_room else 1
        tickets = self._waiting.pick(most)
        for ticket in tickets:
            if ticket.granted.cancelled():
                self._waiting.remove(ticket)
                return self._in_turn()
        return tickets
