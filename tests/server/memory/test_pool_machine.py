"""The pool's invariants under any order of leases, releases, losses, trims and failures, and under threads."""

import gc
import random
import sys
import threading
import time
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.memory.allocators import HostAllocator
from server.memory.pool import BufferPool, PoolExhausted, size_class
from tests.server.memory.poisoned_pool import PoisonedPool
from tests.server.memory.test_pool import CountingAllocator

CAP, SOFT_LIMIT = 300_000, 200_000
SHAPES = st.lists(st.integers(0, 60), min_size=1, max_size=3).map(tuple)
DTYPES = st.sampled_from([np.uint8, np.bool_, np.float32, np.int64])
PLACE = st.integers(0, 99)


class PoolMachine(RuleBasedStateMachine):
    """The pool beside a plain list of what is lent; every lease holds a pattern of its own."""

    def __init__(self):
        super().__init__()
        self.allocator = CountingAllocator()
        self.pool = PoisonedPool(self.allocator, cap=CAP, soft_limit=SOFT_LIMIT)
        self.lent = []  # (lease, pattern)
        self.high_water = 0
        self.lost = Counter()
        self.number = 0

    @property
    def in_use(self):
        return sum(size_class(lease.array.nbytes) for lease, _ in self.lent)

    @rule(shape=SHAPES, dtype=DTYPES, owner=st.sampled_from("ab"), failures=st.sampled_from([0, 0, 0, 1, 2]))
    def lend(self, shape, dtype, owner, failures):
        size = size_class(int(np.prod(shape)) * np.dtype(dtype).itemsize)
        self.allocator.failures = failures
        try:
            lease = self.pool.lease(shape, dtype, owner=owner)
        except PoolExhausted:
            assert self.in_use + size > CAP or failures == 2
        else:
            assert self.in_use + size <= CAP
            self.number += 1
            lease.array[...] = pattern = dtype(self.number % 251)
            self.lent.append((lease, pattern))
            self.high_water = max(self.high_water, self.in_use)
        finally:
            self.allocator.failures = 0

    @precondition(lambda self: self.lent)
    @rule(place=PLACE)
    def release(self, place):
        lease, pattern = self.lent.pop(place % len(self.lent))
        assert (lease.array == pattern).all()
        lease.release()

    @precondition(lambda self: self.lent)
    @rule(place=PLACE)
    def lose(self, place):
        lease, _ = self.lent.pop(place % len(self.lent))
        self.lost[lease.owner] += 1

    @rule(to_bytes=st.integers(0, CAP))
    def trim(self, to_bytes):
        self.pool.trim(to_bytes)
        assert self.pool.stats().reserved <= max(to_bytes, self.in_use)

    @invariant()
    def accounts_are_right(self):
        stats = self.pool.stats()
        assert stats.in_use == self.in_use
        assert stats.in_use <= stats.reserved <= CAP
        assert stats.high_water == self.high_water
        assert stats.blocks == Counter(lease.owner for lease, _ in self.lent)
        assert stats.leaked == self.lost

    @invariant()
    def no_two_leases_share_bytes(self):
        spans = sorted((lease.address, lease.address + lease.nbytes) for lease, _ in self.lent)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert all((lease.array == pattern).all() for lease, pattern in self.lent)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.fixture
def often_switched():
    """Threads take turns every few microseconds, not once in five milliseconds."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.parametrize("soft_limit", [None, 200_000])
def test_eight_threads_never_see_each_others_data(soft_limit, often_switched):
    pool = PoisonedPool(HostAllocator(), cap=CAP, soft_limit=soft_limit)
    barrier, faults, refused, lent = threading.Barrier(8), [], Counter(), Counter()

    def work(number):
        chance, held = random.Random(number), []
        barrier.wait()
        try:
            while lent[number] < 100:
                act = chance.random()
                if act < 0.5 and len(held) < 4:
                    try:
                        held.append(pool.lease((chance.randrange(1, 40_000),), np.uint8, owner=f"thread {number}"))
                    except PoolExhausted:
                        refused[number] += 1
                        time.sleep(0)
                    else:
                        held[-1].array[:] = number
                        lent[number] += 1
                elif act < 0.9 and held:
                    place = chance.randrange(len(held))
                    assert (held[place].array == number).all()
                    held.pop(place).release()
                elif act < 0.95 and held:
                    held.pop()  # lost: nothing else refers to it
                else:
                    pool.trim(chance.randrange(CAP))
                stats = pool.stats()
                assert stats.in_use <= stats.reserved <= CAP
                assert stats.in_use <= stats.high_water <= CAP
                assert stats.blocks.get(f"thread {number}", 0) == len(held)
            for lease in held:
                assert (lease.array == number).all()
                lease.release()
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    gc.collect()
    stats = pool.stats()
    assert (stats.in_use, stats.blocks) == (0, {})
    assert sum(stats.leaked.values()) > 0
    assert sum(refused.values()) > 0, "the cap was met"
    pool.trim()
    assert pool.stats().reserved == 0


def test_collection_inside_the_pools_own_lock_does_not_deadlock():
    """A lost lease in a reference cycle is collected whenever the collector runs, even while the pool works."""

    class CollectingAllocator(HostAllocator):
        def allocate(self, nbytes, *, stream=None):
            gc.collect()
            return super().allocate(nbytes, stream=stream)

    pool = BufferPool(CollectingAllocator())
    cycle = [pool.lease((10,), np.uint8, owner="careless")]
    cycle.append(cycle)
    del cycle
    done = threading.Event()
    thread = threading.Thread(target=lambda: (pool.lease((10**6,), np.uint8, owner="next").release(), done.set()))
    thread.daemon = True
    thread.start()
    assert done.wait(10)
    assert pool.stats().leaked == {"careless": 1}
