"""Memory of the host, page-locked memory and memory of a GPU, lent by a pool; the GPU is a stand-in."""

import gc

import numpy as np
import pytest

from server.memory.allocators import DeviceAllocator, HostAllocator, PinnedAllocator
from server.memory.cuda import Cuda
from server.memory.pool import BufferPool, PoolExhausted
from tests.server.fake_cuda import install
from tests.server.memory.poisoned_pool import PoisonedPool


@pytest.fixture
def cuda(binding):
    return Cuda()


def test_host_memory_outlives_the_block_as_long_as_a_view_of_it():
    pool = BufferPool(HostAllocator(), soft_limit=0)
    with pool.lease((4,), np.float32, owner="careless") as view:
        assert view.tolist() == [0, 0, 0, 0], "fresh pages of the system"
        view[...] = 5
    assert pool.stats().reserved == 0
    assert view.tolist() == [5, 5, 5, 5]


def test_pool_lends_page_locked_memory_as_arrays(cuda, binding):
    allocator = PinnedAllocator(cuda)
    pool = PoisonedPool(allocator)
    lease = pool.lease((3, 4), np.float32, owner="someone")
    lease.array[...] = 2
    assert allocator.owns(lease.address, 48)
    assert not allocator.owns(lease.address, lease.nbytes + 1)
    lease.release()
    pool.trim()
    del lease
    gc.collect()
    assert binding.memory == {}


def test_view_of_page_locked_memory_outlives_the_trimming(cuda, binding):
    pool = BufferPool(PinnedAllocator(cuda), soft_limit=0)
    with pool.lease((4,), np.float32, owner="careless") as view:
        view[...] = 5
    assert view.tolist() == [5, 5, 5, 5]
    del view
    gc.collect()
    assert binding.memory == {}


def test_pool_lends_device_memory_on_a_stream_and_gives_it_back_in_its_order(cuda, binding):
    pool, stream = BufferPool(DeviceAllocator(cuda)), cuda.stream()
    lease = pool.lease((1000,), np.float32, owner="someone", stream=stream)
    address = lease.address
    with pytest.raises(TypeError, match="pass their address"):
        lease.array  # noqa: B018
    lease.release()
    again = pool.lease((1000,), np.float32, owner="someone", stream=stream)
    assert again.address == address
    again.release()
    pool.trim()
    assert address in binding.memory, "the stream may still use it"
    cuda.synchronize(stream)
    assert binding.memory == {}


def test_device_memory_without_a_stream_is_there_at_once(cuda, binding):
    DeviceAllocator(cuda).allocate(100)
    assert binding.names()[-2:] == ["cudaMallocAsync", "cudaStreamSynchronize"]


def test_full_device_exhausts_the_pool_after_trimming(monkeypatch):
    install(monkeypatch, device_bytes=1 << 20)
    pool = BufferPool(DeviceAllocator(Cuda()), name="cuda:0")
    pool.lease((600_000,), np.uint8, owner="first").release()
    held = pool.lease((900_000,), np.uint8, owner="second")
    with pytest.raises(PoolExhausted, match=r"'cuda:0' cannot lend .* cudaMallocAsync failed"):
        pool.lease((900_000,), np.uint8, owner="third")
    held.release()


def test_host_allocator_says_that_there_is_no_memory():
    with pytest.raises(MemoryError, match="the system has no"):
        HostAllocator().allocate(2**60)
