"""Open Inference requests are queued, batched and refused together with those of all other endpoints."""

import asyncio

from tests.server.routes.open_inference.test_endpoints import DETECTOR, PICTURE, image, texts
from tests.server.test_app import Held, ask, running, until, waiting


def infer(client, label, **headers):
    body = {"inputs": [image(PICTURE), texts("labels", label)]}
    return asyncio.ensure_future(client.post(f"{DETECTOR}/infer", json=body, headers=headers))


def labels_of(response):
    return next(output["data"] for output in response.json()["outputs"] if output["name"] == "labels")


def test_tensors_share_a_run_with_requests_of_another_endpoint(detector):
    async def scene():
        held = Held(detector)
        async with running(detector) as client:
            first = ask(client, "cow")
            await until(held.started.is_set)
            others = [infer(client, "dog"), infer(client, "cat"), ask(client, "hen")]
            await until(lambda: waiting(client) == 3)
            held.gate.set()
            await first
            dog, cat, _ = await asyncio.gather(*others)
        assert detector.runs == [1, 3]
        assert (labels_of(dog), labels_of(cat)) == (["dog"], ["cat"])

    asyncio.run(scene())


def test_full_queue_is_told_in_both_forms_with_when_to_come_again(detector):
    async def scene():
        held = Held(detector)
        async with running(detector, max_queue=1, max_images=1) as client:
            accepted = [infer(client, "dog")]
            await until(held.started.is_set)
            accepted.append(infer(client, "cat"))
            await until(lambda: waiting(client) == 1)
            refused = await infer(client, "hen")
            assert refused.status_code == 429
            assert refused.json()["type"] == "urn:openset:problem:queue-full"
            assert refused.json()["error"] == refused.json()["detail"]
            assert int(refused.headers["retry-after"]) >= 1
            held.gate.set()
            assert [response.status_code for response in await asyncio.gather(*accepted)] == [200, 200]

    asyncio.run(scene())


def test_work_past_its_deadline_is_dropped(detector):
    async def scene():
        held = Held(detector)
        async with running(detector) as client:
            first = infer(client, "dog")
            await until(held.started.is_set)
            late = await infer(client, "cat", **{"X-Request-Timeout-Ms": "500"})
            assert (late.status_code, late.json()["type"]) == (504, "urn:openset:problem:deadline-passed")
            held.gate.set()
            assert (await first).status_code == 200
        assert detector.runs == [1]

    asyncio.run(scene())
