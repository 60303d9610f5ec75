"""Jobs: bounded in number, memory and time, owned, fair, and gone with the process."""

import asyncio
import base64
import gc
import weakref
from contextlib import asynccontextmanager

import pytest

from server.inference import batching
from server.jobs import jobs as jobs_module
from server.middleware.auth import digest_of
from tests.server.fakes import FakeDetector, picture
from tests.server.test_app import SOON, Held, running, until, waiting

PNG = picture()
IMAGE = base64.b64encode(PNG).decode()


def body(count, *labels, **more):
    return {"images": [IMAGE] * count, "labels": list(labels or ("dog",)), **more}


async def submitted(client, count=1, **options):
    response = await client.post("/jobs/detect", json=body(count), **options)
    assert response.status_code == 202, response.text
    return response.json()["id"]


@asynccontextmanager
async def job_that_runs(detector, images, **settings):
    """A client, the gate that holds its job's first run, and the job's name."""
    held = Held(detector)
    async with running(detector, **settings) as client:
        name = await submitted(client, images)
        await until(held.started.is_set)
        yield client, held, name


async def ended(client, name, **options):
    async with asyncio.timeout(SOON):
        while True:
            state = (await client.get(f"/jobs/{name}", **options)).json()
            if state["state"] in ("succeeded", "failed"):
                return state
            await asyncio.sleep(0.005)


def test_job_runs_beside_requests_in_parts_no_larger_than_a_batch(detector):
    async def scene():
        async with running(detector, max_batch=4) as client:
            state = await ended(client, await submitted(client, 10))
            assert (state["images_done"], state["state"]) == (10, "succeeded")
        assert sum(detector.runs) == 10
        assert max(detector.runs) <= 4

    asyncio.run(scene())


def test_jobs_leave_room_in_the_queue_for_requests(detector):
    async def scene():
        async with job_that_runs(detector, 40, max_queue=8, max_images=8, max_batch=8) as (client, held, name):
            asked = asyncio.ensure_future(client.post("/detect", json=body(4)))
            await until(lambda: waiting(client) >= 4)
            held.gate.set()
            assert (await asked).status_code == 200
            assert (await ended(client, name))["state"] == "succeeded"

    asyncio.run(scene())


def test_requests_go_before_jobs(detector):
    async def scene():
        async with job_that_runs(detector, 6, max_batch=1) as (client, held, name):
            asked = asyncio.ensure_future(client.post("/detect", json=body(1)))
            await until(lambda: waiting(client) >= 2)
            held.gate.set()
            assert (await asked).status_code == 200
            assert (await client.get(f"/jobs/{name}")).json()["images_done"] < 6

    asyncio.run(scene())


def test_part_that_is_refused_for_overload_waits_and_tries_again(detector, monkeypatch):
    monkeypatch.setattr(jobs_module, "MAX_WAIT_S", 0.01)

    async def scene():
        held = Held(detector)
        async with running(detector, max_inflight_requests=1) as client:
            asked = asyncio.ensure_future(client.post("/detect", json=body(1)))
            await until(held.started.is_set)
            # A submission is a request too: its place is free again once it is answered.
            held.gate.set()
            assert (await asked).status_code == 200
            held.gate.clear()
            held.started.clear()
            name = await submitted(client, 2)
            await until(held.started.is_set)
            assert (await client.post("/detect", json=body(1))).status_code == 429, (
                "a part takes a place as requests do"
            )
            held.gate.set()
            assert (await ended(client, name))["state"] == "succeeded"

    asyncio.run(scene())


def test_part_that_is_refused_for_too_long_fails_the_job(detector, monkeypatch):
    monkeypatch.setattr(jobs_module, "MAX_WAIT_S", 0.01)
    monkeypatch.setattr(jobs_module, "OVERLOAD_S", 0.05)

    async def scene():
        async with running(detector) as client:
            with client.app.state.registry.models[0].batcher.reserve(64, client="a", priority="batch"):
                state = await ended(client, await submitted(client))
            assert state["problem"]["type"] == "urn:openset:problem:queue-full"

    asyncio.run(scene())


def test_client_leaves_a_quarter_of_the_jobs_to_others(detector, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text(f"alice {digest_of('osk_alice')}\nbob {digest_of('osk_bob')}\n")

    async def scene():
        async with running(detector, api_keys_file=keys, max_jobs=4) as client:
            alice, bob = ({"headers": {"X-API-Key": f"osk_{name}"}} for name in ("alice", "bob"))
            names = [await submitted(client, **alice) for _ in range(3)]
            refused = await client.post("/jobs/detect", json=body(1), **alice)
            assert (refused.status_code, refused.json()["type"]) == (429, "urn:openset:problem:too-many-jobs")
            assert int(refused.headers["Retry-After"]) > 0
            other = await submitted(client, **bob)
            assert [job["id"] for job in (await client.get("/jobs", **bob)).json()["jobs"]] == [other]
            for job in names[:2]:
                assert (await client.delete(f"/jobs/{job}", **alice)).status_code == 204
            await submitted(client, **alice)

    asyncio.run(scene())


def test_job_is_its_owners_alone(detector, tmp_path):
    keys = tmp_path / "keys.txt"
    keys.write_text(f"alice {digest_of('osk_alice')}\nbob {digest_of('osk_bob')} admin\n")

    async def scene():
        async with running(detector, api_keys_file=keys) as client:
            alice, bob = ({"headers": {"X-API-Key": f"osk_{name}"}} for name in ("alice", "bob"))
            name = await submitted(client, **alice)
            await ended(client, name, **alice)
            for method, path in (("GET", ""), ("GET", "/result"), ("DELETE", "")):
                answer = await client.request(method, f"/jobs/{name}{path}", **bob)
                assert (answer.status_code, answer.json()["type"]) == (404, "urn:openset:problem:unknown-job")
                assert (await client.request(method, f"/jobs/{name}{path}")).status_code == 401
            assert (await client.get("/jobs", **bob)).json() == {"jobs": []}
            assert (await client.get(f"/jobs/{name}/result", **alice)).status_code == 200

    asyncio.run(scene())


def test_memory_for_jobs_is_bounded_and_comes_back(detector):
    async def scene():
        held = Held(detector)
        async with running(detector, job_bytes=2 * 20_000, max_body_bytes=200_000) as client:
            shares = client.app.state.jobs._memory
            large = {"images": [base64.b64encode(PNG + b"\0" * 20_000).decode()], "labels": ["dog"]}
            first = await client.post("/jobs/detect", json=large)
            refused = await client.post("/jobs/detect", json=large)
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:openset:problem:memory-exhausted")
            too_large = await client.post("/jobs/detect", json=large | {"images": large["images"] * 3})
            assert (too_large.status_code, too_large.json()["type"]) == (413, "urn:openset:problem:body-too-large")
            assert "job_bytes" in too_large.json()["detail"]
            held.gate.set()
            name = first.json()["id"]
            await ended(client, name)
            assert 0 < shares.used < 10_000, "its answer, without its image"
            await client.delete(f"/jobs/{name}")
            assert shares.used == 0

    asyncio.run(scene())


def test_answer_for_which_there_is_no_room_fails_the_job(detector):
    async def scene():
        async with running(detector, job_bytes=7_000) as client:
            response = await client.post("/jobs/detect", json=body(10, *[f"d{n}" for n in range(12)]))
            state = await ended(client, response.json()["id"])
            assert state["problem"]["type"] == "urn:openset:problem:memory-exhausted"
            assert "fewer images" in state["problem"]["detail"]

    asyncio.run(scene())


def test_cancelled_job_ends_and_leaves_nothing(detector):
    async def scene():
        async with job_that_runs(detector, 20, max_batch=1) as (client, held, name):
            job = weakref.ref(client.app.state.jobs._jobs[name])
            assert (await client.delete(f"/jobs/{name}")).status_code == 204
            assert (await client.get(f"/jobs/{name}")).status_code == 404
            held.gate.set()
            await until(lambda: client.app.state.jobs._memory.used == client.app.state.jobs._places.used == 0)
            await until(lambda: gc.collect() is not None and job() is None)
        assert sum(detector.runs) < 20

    asyncio.run(scene())


def test_failed_job_keeps_no_image(detector):
    async def scene():
        async with running(detector) as client:
            refused = await client.post("/jobs/detect", json={"images": [IMAGE, "Z2lm"], "labels": ["dog"]})
            state = await ended(client, refused.json()["id"])
            job = client.app.state.jobs._jobs[refused.json()["id"]]
            assert (state["problem"]["status"], state["problem"]["index"]) == (415, 1)
            assert job.pictures == [None, None]
            assert job.fault.__traceback__ is None, "its frames hold images"
            for _ in range(2):
                assert (await client.get(f"/jobs/{job.id}/result")).status_code == 415

    asyncio.run(scene())


def test_answer_is_forgotten_after_its_time(detector):
    async def scene():
        async with running(detector, job_keep_s=1) as client:
            name = await submitted(client)
            assert "expires_at" in await ended(client, name)
            async with asyncio.timeout(SOON):
                while (answer := await client.get(f"/jobs/{name}")).status_code == 200:
                    await asyncio.sleep(0.05)
            assert (answer.status_code, answer.json()["type"]) == (404, "urn:openset:problem:unknown-job")
            assert "ended over 1 s ago" in answer.json()["detail"]
            assert client.app.state.jobs._memory.used == 0

    asyncio.run(scene())


def test_another_process_says_that_jobs_end_with_theirs(detector, tmp_path):
    async def scene():
        async with running(detector) as client:
            name = await submitted(client)
        async with running(FakeDetector(tmp_path)) as client:
            detail = (await client.get(f"/jobs/{name}")).json()["detail"]
            assert "after a restart submit it again" in detail

    asyncio.run(scene())


def test_server_that_stops_ends_its_jobs_and_takes_no_more(detector):
    async def scene():
        async with job_that_runs(detector, 20, max_batch=1) as (client, held, name):
            client.app.state.jobs.stop()
            held.gate.set()
            state = await ended(client, name)
            assert state["problem"]["type"] == "urn:openset:problem:not-ready"
            assert (await client.get(f"/jobs/{name}/result")).status_code == 503
            assert (await client.post("/jobs/detect", json=body(1))).status_code == 503
        assert sum(detector.runs) < 20

    asyncio.run(scene())


def test_model_that_is_replaced_while_a_job_runs_fails_it(detector, tmp_path):
    async def scene():
        async with job_that_runs(detector, 6, max_batch=1) as (client, held, name):
            registry = client.app.state.registry
            (tmp_path / "other").mkdir()
            service = client.app.state.service
            before = registry.models
            held.gate.set()
            other = FakeDetector(tmp_path / "other", name="other")
            await asyncio.to_thread(service.registry.load, [other])
            assert registry.models != before
            state = await ended(client, name)
            assert state["problem"]["type"] in ("urn:openset:problem:model-changed",)

    asyncio.run(scene())


def test_run_that_fails_is_the_jobs_problem(detector):
    def fail():
        raise RuntimeError("broken")

    async def scene():
        detector.before_run = fail
        async with running(detector) as client:
            state = await ended(client, await submitted(client, 3))
            assert state["problem"]["type"] == "urn:openset:problem:inference-failed"
            answer = await client.post("/jobs/detect", json=body(3, on_error="skip"))
            state = await ended(client, answer.json()["id"])
            assert state["state"] == "succeeded"
            result = (await client.get(f"/jobs/{answer.json()['id']}/result")).json()
            assert [each["index"] for each in result["problems"]] == [0, 1, 2]

    asyncio.run(scene())


def test_jobs_are_counted_by_state(detector):
    async def scene():
        async with running(detector) as client:
            name = await submitted(client)
            await ended(client, name)
            page = (await client.get("/metrics")).text
            assert 'openset_jobs{state="succeeded"} 1.0' in page
            assert 'openset_jobs{state="running"} 0.0' in page
            await client.delete(f"/jobs/{name}")
            assert 'openset_jobs{state="succeeded"} 0.0' in (await client.get("/metrics")).text

    asyncio.run(scene())


@pytest.mark.parametrize("priority", ["batch", "interactive"])
def test_priority_is_batch_unless_it_is_asked_for(detector, priority, monkeypatch):
    seen = []
    reserve = batching.Batcher.reserve

    def noted(self, count, *, client, priority):
        seen.append(priority)
        return reserve(self, count, client=client, priority=priority)

    monkeypatch.setattr(batching.Batcher, "reserve", noted)

    async def scene():
        async with running(detector) as client:
            headers = {"X-Priority": priority} if priority == "interactive" else {}
            await ended(client, await submitted(client, headers=headers))

    asyncio.run(scene())
    assert seen == [priority]
