"""The pool: size classes, reuse, bounds, and who holds what; test_pool_machine has its invariants under any order."""

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.memory.allocators import Block, HostAllocator
from server.memory.pool import PAGE_BYTES, BufferPool, PoolExhausted, size_class
from tests.server.memory.poisoned_pool import PoisonedPool, UseAfterRelease

MIB = 2**20


class CountingAllocator(HostAllocator):
    """Host memory, counted; the next `failures` allocations fail."""

    def __init__(self):
        self.allocated = self.freed = self.failures = 0

    def allocate(self, nbytes, *, stream=None):
        if self.failures:
            self.failures -= 1
            raise MemoryError("none left")
        self.allocated += 1
        return super().allocate(nbytes, stream=stream)

    def free(self, block):
        self.freed += 1
        super().free(block)


class DeviceAllocator:
    """Addresses that the processor cannot follow."""

    on_host = False

    def __init__(self):
        self.next, self.freed = 1 << 40, []

    def allocate(self, nbytes, *, stream=None):
        self.next += nbytes
        return Block(self.next - nbytes, nbytes, stream)

    def free(self, block):
        self.freed.append((block.address, block.stream))


@pytest.fixture
def allocator():
    return CountingAllocator()


@pytest.fixture
def pool(allocator):
    return PoisonedPool(allocator, cap=MIB)


def take(pool, nbytes, *, owner="someone", stream=None):
    return pool.lease((nbytes,), np.uint8, owner=owner, stream=stream)


@given(st.integers(0, 2**40))
def test_size_class_holds_the_request_and_wastes_less_than_a_quarter_or_a_page(nbytes):
    size = size_class(nbytes)
    assert size % PAGE_BYTES == 0
    assert size >= max(nbytes, 1)
    assert size - nbytes < max(nbytes / 4, PAGE_BYTES) or nbytes == 0
    assert size_class(size) == size


def test_size_classes_are_few():
    assert len({size_class(nbytes) for nbytes in range(MIB, 2 * MIB, 999)}) <= 5


@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.int64, np.float16])
def test_lease_is_a_writable_array_of_the_shape_at_the_start_of_a_page(pool, dtype):
    with pool.lease((2, 3, 5), dtype, owner="someone") as array:
        assert (array.shape, array.dtype) == ((2, 3, 5), dtype)
        assert array.ctypes.data % PAGE_BYTES == 0
        assert array.flags.c_contiguous
        array[:] = 1
        assert (array == 1).all()


def test_empty_array_can_be_lent(pool):
    with pool.lease((0, 3), np.float32, owner="someone") as array:
        assert array.shape == (0, 3)


def test_released_block_is_lent_again(pool, allocator):
    for _ in range(5):
        with pool.lease((100, 100), np.float32, owner="someone"):
            pass
    assert allocator.allocated == 1
    assert pool.stats().reserved == size_class(40000)


def test_block_of_another_class_is_not_lent(pool, allocator):
    take(pool, 100_000).release()
    with take(pool, 10_000):
        assert allocator.allocated == 2


def test_failing_block_of_code_gives_its_lease_back(pool):
    with pytest.raises(ValueError, match="inside"), take(pool, 10):
        raise ValueError("inside")
    assert pool.stats().in_use == 0


def test_second_release_does_nothing(pool):
    lease = take(pool, 10)
    lease.release()
    lease.release()
    first, second = take(pool, 10), take(pool, 10)
    assert first.address != second.address
    assert pool.stats().in_use == 2 * PAGE_BYTES


def test_request_over_the_cap_is_refused_with_its_owner_and_the_figures(pool):
    with take(pool, MIB // 2), pytest.raises(PoolExhausted) as refusal:
        take(pool, MIB // 2 + 1, owner="detector")
    assert "cannot lend 655360 bytes to detector: 524288 of its 1048576 bytes are in use" in str(refusal.value)


def test_free_blocks_make_room_for_another_class(pool, allocator):
    take(pool, MIB // 2).release()
    take(pool, MIB // 4).release()
    with take(pool, 3 * MIB // 4):
        assert pool.stats().reserved <= MIB
        assert allocator.freed == 1, "only as much as is needed, the longest unused first"


def test_request_that_cannot_fit_trims_nothing_in_vain(pool, allocator):
    take(pool, 1000).release()
    with take(pool, MIB // 2), pytest.raises(PoolExhausted):
        take(pool, MIB)
    assert allocator.freed == 0


def test_trimming_takes_the_longest_unused_first(pool):
    old, new = take(pool, 10_000), take(pool, 100_000)
    old.release()
    new.release()
    assert pool.trim(size_class(100_000)) == size_class(10_000)
    assert pool.stats().reserved == size_class(100_000)
    assert pool.trim() == size_class(100_000)
    assert pool.stats().reserved == 0


def test_trimming_leaves_what_is_lent(pool):
    with take(pool, 1000) as array:
        array[:] = 7
        assert pool.trim() == 0
        assert (array == 7).all()


def test_soft_limit_trims_at_release(allocator):
    pool = BufferPool(allocator, cap=MIB, soft_limit=MIB // 4)
    leases = [take(pool, MIB // 8) for _ in range(4)]
    for lease in leases:
        lease.release()
    assert pool.stats().reserved == MIB // 4


def test_soft_limit_of_nothing_keeps_nothing(allocator):
    pool = BufferPool(allocator, soft_limit=0)
    take(pool, 1000).release()
    assert pool.stats().reserved == 0


def test_smaller_pool_gives_free_memory_back_and_lets_what_is_lent_be(pool):
    lent, free = take(pool, MIB // 2), take(pool, MIB // 4)
    free.release()
    pool.resize(MIB // 4)
    assert pool.stats().reserved == pool.stats().in_use == MIB // 2
    with pytest.raises(PoolExhausted):
        take(pool, 1)
    lent.release()
    assert pool.stats().reserved == 0, "half of the cap may be kept, and this block is larger"
    pool.resize(2 * MIB)
    assert take(pool, MIB + MIB // 2).held


def test_high_water_stays_where_it_was_highest(pool):
    leases = [take(pool, 10_000) for _ in range(3)]
    for lease in leases:
        lease.release()
    take(pool, 10_000).release()
    assert pool.stats().high_water == 3 * size_class(10_000)


def test_blocks_are_told_by_owner(pool):
    with take(pool, 1, owner="detector"), take(pool, 1, owner="detector"), take(pool, 1, owner="encoder"):
        assert pool.stats().blocks == {"detector": 2, "encoder": 1}
    assert pool.stats().blocks == {}


def test_lost_lease_is_counted_and_its_memory_taken_back(pool):
    lease = take(pool, 1000, owner="careless")
    del lease
    gc.collect()
    stats = pool.stats()
    assert stats.leaked == {"careless": 1}
    assert (stats.in_use, stats.blocks) == (0, {})
    with take(pool, 1000):
        assert pool.stats().reserved == PAGE_BYTES, "its block is lent again"


def test_memory_of_a_lost_lease_can_be_trimmed(pool):
    lease = take(pool, 1000)
    del lease
    gc.collect()
    assert pool.trim() == PAGE_BYTES


def test_lease_is_not_lost_while_a_view_of_its_array_lives(pool):
    view = take(pool, 1000).array[10:20]
    view[:] = 7
    gc.collect()
    assert pool.stats().leaked == {}
    with take(pool, 1000) as other:
        other[:] = 0
        assert (view == 7).all()
    del view
    gc.collect()
    assert pool.stats().leaked == {"someone": 1}


def test_failed_allocation_trims_and_is_tried_again(pool, allocator):
    take(pool, 100_000).release()
    allocator.failures = 1
    with take(pool, 10_000):
        assert (allocator.freed, pool.stats().reserved) == (1, size_class(10_000))


def test_allocation_that_fails_twice_is_exhaustion_and_harms_nothing(pool, allocator):
    with take(pool, 1000) as held:
        held[:] = 7
        allocator.failures = 2
        with pytest.raises(PoolExhausted, match="to detector: none left; 4096 bytes are in use"):
            take(pool, 10_000, owner="detector")
        assert allocator.failures == 0, "tried twice, not more"
        assert (held == 7).all()
        assert pool.stats().in_use == pool.stats().reserved == PAGE_BYTES
    take(pool, 10_000).release()


def test_array_read_after_release_is_poison(pool):
    with pool.lease((4,), np.float32, owner="someone") as array:
        assert np.isnan(array).all(), "nothing may rely on what a block holds"
        array[:] = 1
    assert np.isnan(array).all()


@pytest.mark.parametrize("use", ["lend", "trim"])
def test_write_after_release_is_found(pool, use):
    with take(pool, 4, owner="late") as array:
        pass
    array[:] = 1
    with pytest.raises(UseAfterRelease, match="written to after late had released it"):
        pool.trim() if use == "trim" else take(pool, 4)


def test_lease_itself_refuses_use_after_release(pool):
    lease = take(pool, 4, owner="late")
    lease.release()
    for use in (lambda: lease.array, lambda: lease.address, lease.__enter__):
        with pytest.raises(ValueError, match="a lease of late was used after its release"):
            use()


def test_block_is_reused_on_its_own_stream_only():
    pool = BufferPool(DeviceAllocator(), name="device")
    first = take(pool, 1000, stream=1)
    address = first.address
    first.release()
    other, again = take(pool, 1000, stream=2), take(pool, 1000, stream=1)
    assert (other.address != address, again.address) == (True, address)
    other.release()
    again.release()


def test_memory_of_a_device_has_an_address_but_no_array():
    allocator = DeviceAllocator()
    pool = PoisonedPool(allocator, name="device")
    lease = take(pool, 1000, stream=3)
    with pytest.raises(TypeError, match="pass their address to the device"):
        lease.__enter__()
    address = lease.address
    lease.release()
    pool.trim()
    assert allocator.freed == [(address, 3)]


def test_cap_below_one_block_is_refused():
    with pytest.raises(ValueError, match="cap=100: accepted are 4096 bytes"):
        BufferPool(HostAllocator(), cap=100)
