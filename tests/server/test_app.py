"""The app as a whole: batches across requests, overload, clients that leave, start and stop."""

import asyncio
import contextlib
import gc
import threading
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from fastapi import FastAPI

from server.app import _address, create_app
from server.contract.manifest import BundleError
from server.middleware import uvicorn_server
from server.middleware.auth import digest_of
from server.routes import payload
from server.settings import Settings

from .fakes import FakeDetector, picture

SOON = 10


class Held:
    """Holds model runs until released."""

    def __init__(self, bundle):
        self.started, self.gate = threading.Event(), threading.Event()
        bundle.before_run = self.wait

    def wait(self):
        self.started.set()
        assert self.gate.wait(SOON)


class AppClient(httpx.AsyncClient):
    app: FastAPI


@contextlib.asynccontextmanager
async def running(*bundles, **settings):
    app = create_app(Settings(**{"decode_threads": 2, "warm_up": "none"} | settings), bundles)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with AppClient(transport=transport, base_url="http://openset") as client:
            client.app = app
            yield client


def ask(client, *labels, colour="red", size=(40, 30), images=1):
    files = [("image", ("a.png", picture(colour, size)))] * images
    return asyncio.ensure_future(client.post("/detect", files=files, data={"labels": list(labels)}))


async def until(condition):
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.002)


def batcher(client):
    return client.app.state.registry.models[0].batcher


def waiting(client):
    """Images that are prepared and wait for their run."""
    return len(batcher(client)._queue)


async def metric(client, line):
    text = (await client.get("/metrics")).text
    return next((float(row.rpartition(" ")[2]) for row in text.splitlines() if row.startswith(line + " ")), None)


def test_requests_with_different_prompts_share_a_run(detector):
    async def scene():
        held = Held(detector)
        async with running(detector) as client:
            first = ask(client, "dog")
            await until(held.started.is_set)
            others = [ask(client, f"animal {number}", "cat") for number in range(3)]
            await until(lambda: waiting(client) == 3)
            held.gate.set()
            responses = await asyncio.gather(first, *others)
        assert detector.runs == [1, 3]
        labels = [r.json()["results"][0]["detections"][0]["label"] for r in responses]
        assert labels == ["dog", "animal 0", "animal 1", "animal 2"]

    asyncio.run(scene())


def test_answer_does_not_depend_on_its_neighbours(tmp_path):
    scenes = [
        (("dog",), "white", (40, 30)), (("a cat", "Dog"), "black", (30, 40)), (("z" * 20,), "grey", (64, 64)),
        (("dog",), "red", (33, 65)), (("x",), "blue", (40, 30)),
    ]  # fmt: skip

    async def scene():
        detector = FakeDetector(tmp_path)
        async with running(detector) as client:
            alone = [(await ask(client, *labels, colour=c, size=s)).json()["results"] for labels, c, s in scenes]
            held = Held(detector)
            together = [ask(client, *labels, colour=c, size=s) for labels, c, s in scenes * 2]
            await until(held.started.is_set)
            await until(lambda: waiting(client) >= len(scenes))
            held.gate.set()
            results = [response.json()["results"] for response in await asyncio.gather(*together)]
        assert results == alone * 2
        assert max(detector.runs) > 1

    asyncio.run(scene())


def test_full_queue_returns_429(detector):
    async def scene():
        held = Held(detector)
        async with running(detector, max_queue=2, max_images=2) as client:
            accepted = [ask(client, "dog")]
            await until(held.started.is_set)
            accepted.append(ask(client, "dog", images=2))
            await until(lambda: batcher(client).depth == 2)
            refused = await ask(client, "dog")
            assert refused.status_code == 429
            assert refused.json()["type"] == "urn:openset:problem:queue-full"
            assert int(refused.headers["retry-after"]) >= 1
            assert await metric(client, 'openset_queue_depth{model="fake-detector"}') == 2
            held.gate.set()
            assert [r.status_code for r in await asyncio.gather(*accepted)] == [200, 200]
            assert (await ask(client, "dog")).status_code == 200
            assert await metric(client, 'openset_rejected_total{reason="queue-full"}') == 1

    asyncio.run(scene())


def test_too_many_requests_in_progress_returns_429(detector):
    async def scene():
        held = Held(detector)
        async with running(detector, max_inflight_requests=1) as client:
            accepted = ask(client, "dog")
            await until(held.started.is_set)
            refused = await ask(client, "dog")
            assert refused.json()["type"] == "urn:openset:problem:too-many-requests"
            assert refused.headers["retry-after"] == "1"
            assert (await client.get("/livez")).status_code == 200, "health is answered under any load"
            held.gate.set()
            assert (await accepted).status_code == 200

    asyncio.run(scene())


def test_refused_request_is_told_when_to_come_back_by_the_measured_pace(detector):
    async def scene():
        held = Held(detector)
        async with running(detector, max_inflight_requests=1) as client:
            accepted = ask(client, "dog")
            await until(held.started.is_set)
            batcher(client)._seconds_per_item = 6.5
            assert (await ask(client, "dog")).headers["retry-after"] == "7"
            held.gate.set()
            await accepted

    asyncio.run(scene())


class LeavingClient:
    """Speaks ASGI to the app; sends its request and leaves when told to."""

    def __init__(self, app):
        self.app, self.left, self.sent = app, asyncio.Event(), []

    async def post(self, path):
        request = httpx.Request(
            "POST", "http://openset" + path, files=[("image", ("a.png", picture()))], data={"labels": "dog"}
        )
        body = [{"type": "http.request", "body": request.read(), "more_body": False}]

        async def receive():
            if body:
                return body.pop()
            await self.left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            self.sent.append(message)

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in request.headers.items()],
            "client": ("127.0.0.1", 1), "server": ("openset", 80),
        }  # fmt: skip
        await self.app(scope, receive, send)


def test_request_whose_client_has_gone_is_dropped_before_it_runs(detector):
    async def scene():
        held = Held(detector)
        async with running(detector) as client:
            first = ask(client, "dog")
            await until(held.started.is_set)
            leaver = LeavingClient(client.app)
            leaving = asyncio.ensure_future(leaver.post("/detect"))
            await until(lambda: waiting(client) == 1)
            leaver.left.set()
            await asyncio.wait_for(leaving, SOON)
            assert batcher(client).depth == 0
            held.gate.set()
            assert (await first).status_code == 200
            assert detector.runs == [1]
            assert await metric(client, 'openset_cancelled_total{stage="queue"}') == 1
            assert await metric(client, 'openset_requests_total{endpoint="/detect",status="499"}') == 1

    asyncio.run(scene())


def test_client_that_leaves_during_its_run_harms_nobody(detector):
    async def scene():
        held = Held(detector)
        async with running(detector) as client:
            leaver = LeavingClient(client.app)
            leaving = asyncio.ensure_future(leaver.post("/detect"))
            await until(held.started.is_set)
            leaver.left.set()
            await asyncio.wait_for(leaving, SOON)
            assert await metric(client, 'openset_cancelled_total{stage="infer"}') == 1
            held.gate.set()
            assert (await ask(client, "dog")).status_code == 200

    asyncio.run(scene())


def asking(client, **headers):
    files = [("image", ("a.png", picture()))]
    return asyncio.ensure_future(client.post("/detect", files=files, data={"labels": ["dog"]}, headers=headers))


def test_queued_request_is_dropped_at_its_deadline(detector):
    async def scene():
        held = Held(detector)
        async with running(detector) as client:
            first = ask(client, "dog")
            await until(held.started.is_set)
            late = await asyncio.wait_for(asking(client, **{"X-Request-Timeout-Ms": "60"}), SOON)
            assert (late.status_code, late.json()["type"]) == (504, "urn:openset:problem:deadline-passed")
            assert "within 0.06 s, its deadline" in late.json()["detail"]
            assert batcher(client).depth == 0
            held.gate.set()
            assert (await first).status_code == 200
            assert detector.runs == [1], "what was dropped never ran"
            assert await metric(client, 'openset_cancelled_total{stage="queue"}') == 1
            assert await metric(client, 'openset_requests_total{endpoint="/detect",status="504"}') == 1

    asyncio.run(scene())


def test_deadline_holds_while_the_body_comes(detector, monkeypatch):
    monkeypatch.setattr(uvicorn_server, "LINGER_SILENCE_S", 0.1)

    async def scene():
        async def trickle():
            yield b"{"
            await asyncio.sleep(SOON)

        async with running(detector) as client:
            headers = {"Content-Type": "application/json", "X-Request-Timeout-Ms": "50"}
            response = await client.post("/detect", content=trickle(), headers=headers)
            assert response.status_code == 504
            assert await metric(client, 'openset_cancelled_total{stage="read"}') == 1

    asyncio.run(scene())


def test_request_within_its_deadline_is_answered(detector):
    async def scene():
        async with running(detector) as client:
            response = await asking(client, **{"X-Request-Timeout-Ms": "10000"})
            assert response.status_code == 200
            assert response.json()["results"]

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("X-Request-Timeout-Ms", "0"), ("X-Request-Timeout-Ms", "-1"), ("X-Request-Timeout-Ms", "1.5"),
        ("X-Request-Timeout-Ms", "soon"), ("X-Request-Timeout-Ms", ""), ("X-Request-Timeout-Ms", "3600001"),
        ("X-Request-Timeout-Ms", "9" * 5000), ("X-Priority", "urgent"), ("X-Priority", ""),
    ],
)  # fmt: skip
def test_header_that_does_not_fit_is_named(client, header, value):
    response = client.post("/detect", headers={header: value})
    assert (response.status_code, response.json()["type"]) == (422, "urn:openset:problem:invalid-request")
    assert response.json()["errors"][0]["field"] == header


def test_interactive_requests_overtake_batch_requests(detector):
    async def scene():
        held = Held(detector)
        async with running(detector, max_batch=1) as client:
            order = []
            first = ask(client, "dog")
            await until(held.started.is_set)
            for number, priority in enumerate(("batch", "Batch", "interactive"), 1):
                asking(client, **{"X-Priority": priority}).add_done_callback(lambda _, p=priority: order.append(p))
                await until(lambda number=number: waiting(client) == number)
            held.gate.set()
            await first
            await until(lambda: len(order) == 3)
        assert order == ["interactive", "batch", "Batch"]

    asyncio.run(scene())


def test_client_that_fills_the_queue_leaves_others_a_place_and_a_turn(detector, tmp_path):
    file = tmp_path / "keys.txt"
    file.write_text("".join(f"{name} {digest_of(name)}\n" for name in ("hog", "single")), encoding="utf-8")

    async def scene():
        held = Held(detector)
        async with running(detector, max_queue=16, max_batch=1, api_keys_file=file) as client:
            order = []

            def sent(name):
                future = asking(client, **{"X-API-Key": name})
                future.add_done_callback(lambda done: order.append((name, done.result().status_code)))

            sent("hog")
            await until(held.started.is_set)
            for _ in range(29):
                sent("hog")
            await until(lambda: len(order) == 29 - 14)
            assert set(order) == {("hog", 429)}
            sent("single")
            await until(lambda: waiting(client) == 15)
            held.gate.set()
            await until(lambda: len(order) == 31)
        answered = [name for name, status in order if status == 200]
        assert answered.index("single") <= 2
        assert len(answered) == 16

    asyncio.run(scene())


def test_prompts_of_one_client_leave_others_a_turn(detector, tmp_path, monkeypatch):
    file = tmp_path / "keys.txt"
    file.write_text("".join(f"{name} {digest_of(name)}\n" for name in ("hog", "single")), encoding="utf-8")
    gates, encoded, honest = (threading.Event(), threading.Event()), [], detector.encode_prompts

    def encode(prompts):
        assert gates[len(encoded) >= 2].wait(SOON)
        encoded.extend(label.text for prompt in prompts for label in prompt.labels)
        return honest(prompts)

    monkeypatch.setattr(detector, "encode_prompts", encode)

    async def scene():
        async with running(detector, api_keys_file=file) as client:

            def sent(name, label):
                headers, files = {"X-API-Key": name}, [("image", ("a.png", picture()))]
                return asyncio.ensure_future(
                    client.post("/detect", files=files, data={"labels": label}, headers=headers)
                )

            slots, come = client.app.state.registry.models[0]._text_slots, []
            slot = slots.slot
            monkeypatch.setattr(slots, "slot", lambda **context: come.append(context["client"]) or slot(**context))
            asked = [sent("hog", f"thing {number}") for number in range(12)]
            await until(lambda: batcher(client).depth == 12)
            asked.append(sent("single", "mine"))
            await until(lambda: batcher(client).depth == 13)
            gates[0].set()
            await until(lambda: "single" in come)
            gates[1].set()
            assert [r.status_code for r in await asyncio.gather(*asked)] == [200] * 13
        assert encoded.index("mine") <= 5, "two before, two in the slots, and the hog's turn"

    asyncio.run(scene())


def test_slow_body_times_out(detector, monkeypatch):
    monkeypatch.setattr(uvicorn_server, "LINGER_SILENCE_S", 0.1)
    monkeypatch.setattr(payload, "BODY_TIMEOUT_S", 0.05)

    async def scene():
        async def trickle():
            yield b"{"
            await asyncio.sleep(SOON)

        async with running(detector) as client:
            response = await client.post("/detect", content=trickle(), headers={"Content-Type": "application/json"})
            assert (response.status_code, response.json()["type"]) == (408, "urn:openset:problem:body-timeout")

    asyncio.run(scene())


def test_stopping_finishes_accepted_requests(detector):
    async def scene():
        held = Held(detector)
        async with running(detector) as client:
            accepted = [ask(client, "dog")]
            await until(held.started.is_set)
            accepted += [ask(client, "dog"), ask(client, "dog")]
            await until(lambda: waiting(client) == 2)
            closing = asyncio.ensure_future(asyncio.to_thread(client.app.state.registry.close))
            await until(lambda: not client.app.state.registry.ready)
            assert (await client.get("/readyz")).status_code == 503
            assert (await ask(client, "dog")).status_code == 503
            held.gate.set()
            assert [r.status_code for r in await asyncio.gather(*accepted)] == [200] * 3
            await closing

    asyncio.run(scene())


def test_server_is_live_but_not_ready_while_it_loads(monkeypatch, detector):
    loading = threading.Event()

    def slowly(settings, task):
        assert loading.wait(SOON)
        return [detector]

    monkeypatch.setattr("server.predictor.open_bundles", slowly)

    async def scene():
        app = create_app(Settings())
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://openset") as client:
                assert (await client.get("/livez")).status_code == 200
                early = await client.get("/readyz")
                assert (early.status_code, early.json()["type"]) == (503, "urn:openset:problem:not-ready")
                assert early.headers["retry-after"] == "5"
                assert (await ask(client, "dog")).status_code == 503
                loading.set()
                await until(lambda: app.state.registry.ready)
                assert (await client.get("/readyz")).status_code == 200
                assert (await ask(client, "dog")).status_code == 200

    asyncio.run(scene())


def test_bundle_that_cannot_be_loaded_turns_livez_red_and_is_told(monkeypatch):
    def fail(settings, task):
        raise BundleError("x is no bundle")

    monkeypatch.setattr("server.predictor.open_bundles", fail)
    told = []

    async def scene():
        app = create_app(Settings(), on_failure=lambda: told.append(True))
        async with app.router.lifespan_context(app):
            await until(lambda: told)
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://openset") as client:
                response = await client.get("/livez")
        assert response.status_code == 503
        assert "x is no bundle" in response.json()["detail"]

    asyncio.run(scene())


def test_server_that_is_ready_tells_so_once_the_bundles_are_loaded(monkeypatch, detector):
    monkeypatch.setattr("server.predictor.open_bundles", lambda settings, task: [detector])
    told = []

    async def scene():
        async def tell():
            told.append(app.state.registry.ready)

        app = create_app(Settings(warm_up="none"), on_ready=tell)
        async with app.router.lifespan_context(app):
            await until(lambda: told)

    gc.unfreeze()
    asyncio.run(scene())
    assert told == [True]
    assert gc.get_freeze_count(), "collections would go through all that was loaded"


@pytest.mark.parametrize(
    ("bound", "page", "address"),
    [
        (("0.0.0.0", 8000), True, "http://localhost:8000 (API: http://localhost:8000/docs)"),
        (("127.0.0.1", 81), False, "http://127.0.0.1:81/docs"),
        (("::1", 81, 0, 0), False, "http://[::1]:81/docs"),
        (("::", 81, 0, 0), False, "http://localhost:81/docs"),
    ],
)
def test_address_is_one_that_a_browser_here_can_open(bound, page, address):
    listener = SimpleNamespace(getsockname=lambda: bound)
    server = SimpleNamespace(servers=[SimpleNamespace(sockets=[listener])])
    assert _address(server, page=page) == address


def test_unforeseen_error_is_a_problem_without_its_message(detector, encoder, start, monkeypatch):
    client = start()

    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr("server.inference.pipeline.responses.image_detections", fail)
    response = client.post("/detect", files=[("image", ("a.png", picture()))], data={"labels": "dog"})
    assert (response.status_code, response.json()["type"]) == (500, "urn:openset:problem:internal-error")
    assert "secret" not in response.text


def test_encoder_batches_images_of_different_requests(encoder):
    async def scene():
        held = Held(encoder)
        async with running(encoder) as client:

            def classify(colour):
                files = [("image", ("a.png", picture(colour)))]
                return asyncio.ensure_future(client.post("/classify", files=files, data={"labels": ["r", "g", "b"]}))

            first = classify("red")
            await until(held.started.is_set)
            others = [classify(colour) for colour in ("lime", "blue")]
            await until(lambda: waiting(client) == 2)
            held.gate.set()
            best = [r.json()["results"][0]["scores"][0]["label"] for r in await asyncio.gather(first, *others)]
        assert best == ["r", "g", "b"]
        assert encoder.runs == [1, 2]

    asyncio.run(scene())


@pytest.mark.parametrize("count", [1, 4])
def test_every_image_has_its_own_answer_in_order(encoder, count):
    async def scene():
        async with running(encoder) as client:
            colours = ["red", "lime", "blue", "lime"][:count]
            files = [("image", (colour, picture(colour))) for colour in colours]
            answer = (await client.post("/similarity", files=files, data={"texts": ["r", "g", "b"]})).json()
            assert np.argmax(answer["similarity"], axis=1).tolist() == [0, 1, 2, 1][:count]

    asyncio.run(scene())
