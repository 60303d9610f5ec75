"""Shares of a full queue: many that ask at once do not crowd out one, be they addresses, networks or keys."""

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.inference.fair_queue import FairQueue
from server.inference.queue_shares import CLIENT_SHARE, NEXT_SHARE, WINDOW_S, QueueShares

CAPACITY = 64


@dataclass(eq=False)
class Job:
    client: str
    bucket: int = 0
    priority: str = "interactive"


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def shares_of(victim, crowd, *, seconds=60, runs_a_second=10, seed=0, alone_for=0):
    """Requests of the victim, alone at first, and those accepted, beside a crowd that asks again as soon as it may."""
    clock, chance = Clock(), random.Random(seed)
    shares, queue = QueueShares(CAPACITY, clock=clock), FairQueue()
    accepted = Counter()

    def ask(client):
        if CAPACITY - len(queue) <= shares.kept_from(client):
            return False
        shares.take(client, 1)
        queue.add(Job(client))
        accepted[client] += 1
        return True

    for _ in range(alone_for):
        clock.now += 1
        shares.take(victim, 20)
        shares.give_back(victim, 20)
    asked = 0
    for _ in range(seconds * runs_a_second):
        clock.now += 1 / runs_a_second
        if len(queue):
            run = queue.pick(1)
            queue.take(run)
            shares.give_back(run[0].client, 1)
        waiting = {job.client for job in queue}
        everyone = [client for client in crowd if client not in waiting]
        chance.shuffle(everyone)
        for client in everyone:
            ask(client)
        if chance.random() < 0.1 and victim not in waiting:  # a request a second
            asked += 1
            ask(victim)
    return asked, accepted[victim]


CROWDS = {
    "one network": [f"203.0.113.{number}" for number in range(80)],
    "one IPv6 site": [f"2001:db8:1:{number:x}::/64" for number in range(80)],
    "two networks": [f"203.0.{number % 2}.{number}" for number in range(80)],
    "its own network": [f"198.51.100.{number + 100}" for number in range(80)],
    "networks everywhere": [f"203.0.{number}.1" for number in range(80)],
    "keys": [f"key-{number}" for number in range(80)],
}


@pytest.mark.parametrize("crowd", ["one network", "one IPv6 site", "two networks"])
def test_eighty_addresses_take_nothing_from_another_network(crowd):
    asked, accepted = shares_of("198.51.100.7", CROWDS[crowd])
    assert accepted == asked > 40


@pytest.mark.parametrize("crowd", ["one network", "one IPv6 site", "two networks"])
def test_who_was_there_before_loses_nothing_to_newcomers(crowd):
    asked, accepted = shares_of("198.51.100.7", CROWDS[crowd], alone_for=60)
    assert accepted == asked > 40


@pytest.mark.parametrize("crowd", ["its own network", "networks everywhere", "keys"])
def test_eighty_equals_leave_one_its_share(crowd):
    """The share is a run in 81; eager ones that ask ten times as often used to take nearly all of it."""
    _, accepted = shares_of("198.51.100.7", CROWDS[crowd], runs_a_second=20)
    assert accepted >= 0.6 * 60 * 20 / 81


def test_client_alone_may_fill_the_queue():
    shares = QueueShares(CAPACITY)
    for _ in range(100):
        assert shares.kept_from("alice") == 0
        shares.take("alice", CAPACITY)
        shares.give_back("alice", CAPACITY)


def test_usage_is_forgotten():
    clock = Clock()
    shares = QueueShares(CAPACITY, clock=clock)
    shares.take("hog", 50)
    shares.give_back("hog", 50)
    shares.take("bob", 1)
    assert shares.kept_from("hog") == CAPACITY // NEXT_SHARE
    clock.now += 6 * WINDOW_S
    shares.take("carol", 10)
    assert shares.kept_from("hog") == 0


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 9), st.floats(0, 2000)), max_size=40))
def test_all_is_given_back_however_time_passes(takes):
    clock = Clock()
    shares = QueueShares(CAPACITY, clock=clock)
    for client, count, seconds in takes:
        clock.now += seconds
        shares.take(client, count)
        assert 0 <= shares.kept_from(client) <= CAPACITY // CLIENT_SHARE
    for client, count, _ in takes:
        shares.give_back(client, count)
    assert not shares._clients
    assert not shares._networks
