"""The prompt cache: bounded in bytes, least recently used goes, and nothing is computed twice at once."""

import asyncio
import sys
import tracemalloc

import numpy as np
import pytest

from server.inference.prompt_cache import OVERHEAD_BYTES, PromptCache
from server.telemetry.metrics import Metrics

ENTRY = OVERHEAD_BYTES + sys.getsizeof("1") + 40  # of features(...)


def features(value):
    return np.full(10, value, np.float32)


class Computer:
    """Computes a key's features as its number; remembers what it was asked for."""

    def __init__(self, keys):
        self.keys, self.asked = keys, []
        self.release = asyncio.Event()
        self.release.set()

    async def __call__(self, places):
        self.asked.append([self.keys[place] for place in places])
        await self.release.wait()
        return [features(int(self.keys[place])) for place in places]


class Owner:
    def __init__(self, metrics):
        self.metrics, self.retired = metrics, False


M = Owner(Metrics().of("m"))


def make(entries):
    metrics = Metrics()
    owners = {name: Owner(metrics.of(name)) for name in "mab"}
    cache = PromptCache(entries * ENTRY, metrics)

    def sample(name, **labels):
        return metrics.registry.get_sample_value(f"openset_prompt_cache_{name}", labels or {"model": "m"})

    async def get(*keys, model="m", computer=None):
        computer = computer or Computer(keys)
        rows = await cache.get(owners[model], keys, computer)
        return [int(row[0]) for row in rows], computer.asked

    return cache, get, sample


def test_second_request_is_not_computed():
    async def scene():
        _, get, sample = make(8)
        assert await get("1", "2") == ([1, 2], [["1", "2"]])
        assert await get("2", "1") == ([2, 1], [])
        assert (sample("hits_total"), sample("misses_total")) == (2, 2)

    asyncio.run(scene())


def test_only_what_is_missing_is_computed():
    async def scene():
        _, get, _ = make(8)
        await get("1")
        assert await get("2", "1", "3") == ([2, 1, 3], [["2", "3"]])

    asyncio.run(scene())


def test_repeated_key_is_computed_once():
    async def scene():
        _, get, _ = make(8)
        assert await get("1", "1", "2") == ([1, 1, 2], [["1", "2"]])

    asyncio.run(scene())


def test_models_do_not_share_features():
    async def scene():
        _, get, _ = make(8)
        await get("1", model="a")
        assert await get("1", model="b") == ([1], [["1"]])

    asyncio.run(scene())


def test_least_recently_used_goes_and_bytes_stay_bounded():
    async def scene():
        cache, get, sample = make(2)
        await get("1")
        await get("2")
        await get("1")
        await get("3")
        assert await get("1") == ([1], [])
        assert await get("2") == ([2], [["2"]])
        assert cache.bytes == 2 * ENTRY
        assert sample("evictions_total") == 2
        assert cache._metrics.registry.get_sample_value("openset_prompt_cache_bytes") == cache.bytes

    asyncio.run(scene())


def test_cache_of_no_bytes_still_answers():
    async def scene():
        cache, get, _ = make(0)
        assert await get("1") == ([1], [["1"]])
        assert await get("1") == ([1], [["1"]])
        assert cache.bytes == 0

    asyncio.run(scene())


def test_concurrent_requests_compute_once():
    async def scene():
        _, get, _ = make(8)
        slow = Computer(["1"])
        slow.release.clear()
        first = asyncio.create_task(get("1", computer=slow))
        await asyncio.sleep(0)
        second = asyncio.create_task(get("1", "2"))
        await asyncio.sleep(0)
        slow.release.set()
        assert await first == ([1], [["1"]])
        assert await second == ([1, 2], [["2"]])

    asyncio.run(scene())


def test_cancelled_request_does_not_stop_the_computation_others_wait_for():
    async def scene():
        _, get, _ = make(8)
        slow = Computer(["1"])
        slow.release.clear()
        first = asyncio.create_task(get("1", computer=slow))
        await asyncio.sleep(0)
        second = asyncio.create_task(get("1"))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.sleep(0)
        slow.release.set()
        assert await second == ([1], [])

    asyncio.run(scene())


def test_computation_that_nobody_waits_for_is_stopped_and_made_anew_when_asked_for():
    async def scene():
        cache, get, _ = make(8)
        slow = Computer(["1", "2"])
        slow.release.clear()
        gone = [asyncio.create_task(get("1", "2", computer=slow)), asyncio.create_task(get("2"))]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        await asyncio.sleep(0)
        assert await get("2", "1") == ([2, 1], [["2", "1"]])
        assert not cache._pending
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scene())


def test_texts_count_as_much_as_their_features():
    async def scene():
        cache, get, _ = make(100)
        texts = [f"{number:01000}" for number in range(200)]
        await get(*texts)
        assert cache.bytes <= 100 * ENTRY
        assert len(cache._entries) <= 100 * ENTRY / 1000

    asyncio.run(scene())


def test_all_that_the_cache_holds_is_counted():
    async def scene():
        cache, _, _ = make(1_000_000)
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for start in range(0, 2000, 50):
                texts = [f"{number}" + "犬" * 300 for number in range(start, start + 50)]

                async def rows(places):
                    return list(np.zeros((len(places), 512), np.float32))  # views of one array

                await cache.get(M, texts, rows)
            held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert 0.7 * cache.bytes < held < cache.bytes

    asyncio.run(scene())


def test_failed_computation_is_told_to_all_who_wait_and_not_kept():
    async def fail(_):
        await asyncio.sleep(0)
        raise ValueError("no features")

    async def scene():
        cache, get, _ = make(8)
        results = await asyncio.gather(cache.get(M, ["1"], fail), cache.get(M, ["1"], fail), return_exceptions=True)
        assert [str(result) for result in results] == ["no features"] * 2
        assert await get("1") == ([1], [["1"]])

    asyncio.run(scene())


def test_shared_features_cannot_be_changed():
    async def scene():
        cache, _, _ = make(8)
        (row,) = await cache.get(M, ["1"], Computer(["1"]))
        with pytest.raises(ValueError, match="read-only"):
            row[0] = 5

    asyncio.run(scene())


def test_retired_owner_leaves_nothing_and_its_successor_computes_anew():
    async def scene():
        metrics = Metrics()
        cache = PromptCache(8 * ENTRY, metrics)
        old, new = Owner(metrics.of("m")), Owner(metrics.of("m"))

        async def got(owner, value):
            computer = Computer(["1"])
            computer.keys = [str(value)]
            return int((await cache.get(owner, ["1"], computer))[0][0])

        assert await got(old, 5) == 5
        assert await got(new, 6) == 6, "two bundles of one name share nothing"
        old.retired = True
        cache.drop(old)
        assert cache.bytes == ENTRY
        assert await got(new, 7) == 6
        assert await got(old, 8) == 8
        assert cache.bytes == ENTRY, "what comes late for a retired one is not kept"

    asyncio.run(scene())
