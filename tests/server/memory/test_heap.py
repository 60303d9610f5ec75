"""The heaps: what a peak left free goes back to the system, and collections pass over what stays."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from server.memory import heap
from server.memory.process_resources import resident_bytes

ROOT = Path(__file__).parents[3]


def trims(monkeypatch, sizes):
    """The places in `sizes`, the memory found each time, at which memory was returned."""
    found, trimmed = iter(sizes), []

    def resident():
        size = next(found, None)
        if size is None:
            raise asyncio.CancelledError
        return size * heap.TRIM_ABOVE_BYTES

    monkeypatch.setattr(heap, "TRIM_EVERY_S", 0)
    monkeypatch.setattr(heap, "resident_bytes", resident)
    monkeypatch.setattr(heap, "return_free_memory", lambda: trimmed.append(True))
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(heap.trim_for_ever())
    return len(trimmed)


def test_memory_is_returned_after_a_peak_and_not_at_rest(monkeypatch):
    assert trims(monkeypatch, [3, 3, 3.5, 4]) == 0
    assert trims(monkeypatch, [3, 6, 5, 6, 3, 3]) == 2, "until it is back"


def test_system_that_tells_no_memory_has_none_returned(monkeypatch):
    monkeypatch.setattr(heap, "resident_bytes", lambda: None)
    asyncio.run(heap.trim_for_ever())


@pytest.mark.skipif(resident_bytes() is None, reason="needs /proc")
def test_peak_of_many_threads_goes_back():
    code = """
import threading, time
from server.memory.heap import limit_arenas
from server.memory.process_resources import resident_bytes, return_free_memory
limit_arenas()
before = resident_bytes()
def peak(keep):
    blocks = [bytes(100_000) for _ in range(300)]
    keep.append(blocks[-1])
    barrier.wait()
barrier, keep = threading.Barrier(8), []
threads = [threading.Thread(target=peak, args=(keep,)) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
return_free_memory()
print((resident_bytes() - before) // 2**20)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 100, "of 240 MB"


def test_collections_pass_over_what_stays_and_the_next_call_frees_what_no_longer_does():
    code = """
import gc, weakref
from server.memory.heap import freeze_objects

class Cycle:
    def __init__(self):
        self.own = self

garbage, kept = Cycle(), Cycle()
seen = [weakref.ref(garbage), weakref.ref(kept)]
del garbage
freeze_objects()
assert [ref() is None for ref in seen] == [True, False]
assert len(gc.get_objects()) < 1000 < gc.get_freeze_count()
del kept
gc.collect()
assert seen[1]() is not None, "it is frozen"
freeze_objects()
assert seen[1]() is None
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
