"""What a short pool does to requests: batches run in halves, an image without room is a 503, and no worker dies."""

import asyncio

import numpy as np
import pytest

from server.errors import MemoryExhausted, WorkerStopped
from server.inference.batching import Batcher, BatchLimits
from server.memory.pool import PAGE_BYTES, PoolExhausted
from server.telemetry.metrics import Metrics
from tests.server.fakes import picture
from tests.server.test_app import Held, ask, metric, running, until, waiting


class Crowded:
    """Lends all of a pool but `free` bytes, in whole pages, to somebody else."""

    def __init__(self, pool, free):
        self.leases = []
        while (left := pool.cap - pool.stats().in_use - free) >= PAGE_BYTES:
            size = 1 << (left.bit_length() - 1)  # every power of two is a size class
            self.leases.append(pool.lease((size,), np.uint8, owner="somebody else"))

    def leave(self):
        for lease in self.leases:
            lease.release()


def shared_pool(client):
    return client.app.state.registry.pool


ONE_IMAGE = 32 * 48 * 3 * 4 + 4096  # of the fake detector, 40x30 pixels: values, and a page of mask
POOL = 2**20


def test_batch_that_does_not_fit_runs_in_halves(detector):
    async def play():
        async with running(detector, pool_bytes=POOL, max_batch=4) as client:
            alone = (await ask(client, "dog")).json()["results"]
            detector.runs.clear()
            held = Held(detector)
            first = ask(client, "dog")
            await until(held.started.is_set)
            others = [ask(client, "dog") for _ in range(4)]
            await until(lambda: waiting(client) == 4)
            crowd = Crowded(shared_pool(client), free=2 * ONE_IMAGE)
            held.gate.set()
            responses = await asyncio.gather(first, *others)
            assert [response.status_code for response in responses] == [200] * 5
            assert [response.json()["results"] for response in responses] == [alone] * 5
            assert detector.runs == [1, 2, 2]
            assert await metric(client, 'openset_executions_total{model="fake-detector"}') == 4
            assert await metric(client, 'openset_inferences_total{model="fake-detector"}') == 6
            crowd.leave()

    asyncio.run(play())


@pytest.mark.parametrize("endpoint", ["/detect", "/classify"])
def test_image_that_does_not_fit_is_503_and_the_worker_goes_on(start, endpoint):
    client = start(pool_bytes=POOL)
    pool = client.app.state.registry.pool

    def post():
        return client.post(endpoint, files=[("image", ("a.png", picture()))] * 2, data={"labels": "dog"})

    crowd = Crowded(pool, 0)
    refused = post()
    assert refused.status_code == 503
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["type"] == "urn:openset:problem:memory-exhausted"
    assert int(refused.headers["retry-after"]) >= 1
    assert "somebody" not in refused.text, "who else is served is not the client's business"
    assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    assert 'openset_rejected_total{reason="memory-exhausted"} 1.0' in client.get("/metrics").text
    crowd.leave()
    assert post().status_code == 200


def test_pool_is_shown_in_the_metrics(start):
    client = start(pool_bytes=POOL)
    pool = client.app.state.registry.pool
    high_water = pool.stats().high_water
    assert high_water > 0, "the warm-up used it"
    with pool.lease((POOL // 2,), np.uint8, owner="somebody"):
        text = client.get("/metrics").text
        assert f'openset_pool_in_use_bytes{{pool="host"}} {POOL // 2}.0' in text
        assert f'openset_pool_high_water_bytes{{pool="host"}} {POOL // 2}.0' in text
        assert f'openset_pool_reserved_bytes{{pool="host"}} {pool.stats().reserved}.0' in text
    assert 'openset_pool_in_use_bytes{pool="host"} 0.0' in client.get("/metrics").text
    assert 'openset_pool_leaked_blocks{pool="host"} 0.0' in client.get("/metrics").text


def test_closing_gives_the_pools_memory_back(detector):
    async def play():
        async with running(detector) as client:
            assert (await ask(client, "dog")).status_code == 200
            pool = shared_pool(client)
            assert pool.stats().reserved > 0
        assert pool.stats().reserved == 0

    asyncio.run(play())


def test_one_item_without_room_does_not_keep_its_neighbours_from_running():
    def run(items):
        if 3 in items:
            raise PoolExhausted("no room")
        return [2 * item for item in items]

    batcher = Batcher(
        "doubler",
        run,
        bucket=lambda item: 0,
        limits=BatchLimits(8, 8, max_wait_s=0.05),
        metrics=Metrics().of("doubler"),
    )
    with batcher.reserve(5) as places:
        futures = [places.submit(item) for item in range(1, 6)]
        assert [futures[place].result(5).value for place in (0, 1, 3, 4)] == [2, 4, 8, 10]
        with pytest.raises(MemoryExhausted, match="memory for running an image on doubler is all in use"):
            futures[2].result(5)
    assert batcher.alive
    batcher.close(5)


def test_worker_that_dies_on_one_half_leaves_the_other_nobody_waiting():
    def run(items):
        if len(items) > 1:
            raise PoolExhausted("no room")
        raise SystemExit("worker dies")

    batcher = Batcher(
        "doubler",
        run,
        bucket=lambda item: 0,
        limits=BatchLimits(8, 8, max_wait_s=0.05),
        metrics=Metrics().of("doubler"),
    )
    with batcher.reserve(3) as places:
        for future in [places.submit(item) for item in range(3)]:
            with pytest.raises(WorkerStopped):
                future.result(5)
    batcher._thread.join(5)
    assert not batcher.alive
