"""Documents: rendered once for each state, off the event loop; a client that has one is told so; metrics are shared."""

import asyncio
import threading
import time

import pytest
from starlette.requests import Request

from server.routes.documents import Document, DocumentCache, SharedRendering

SOON = 10


def asked(**headers):
    return Request({"type": "http", "headers": [(b"if-none-match", value.encode()) for value in headers.values()]})


@pytest.mark.parametrize("path", ["/openapi.json", "/models"])
def test_document_is_sent_once_and_then_known_by_its_tag(client, path):
    first = client.get(path)
    tag = first.headers["etag"]
    assert first.status_code == 200
    assert client.get(path).content == first.content
    known = client.get(path, headers={"If-None-Match": tag})
    assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", tag)
    assert client.get(path, headers={"If-None-Match": '"old"'}).status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [('"a"', 304), ('W/"a"', 304), ('"b", "a"', 304), ("*", 304), ('"b"', 200), ("a", 200), ("", 200)],
)
def test_tags_that_a_client_knows_are_compared(sent, status):
    assert Document(b"text", "text/plain", '"a"').response(asked(header=sent)).status_code == status


def test_document_is_rendered_again_only_in_another_state():
    rendered = []

    async def scene():
        cache = DocumentCache()

        def render():
            rendered.append(threading.current_thread())
            time.sleep(0.01)
            return b"%d" % len(rendered)

        async def get(state):
            return (await cache.get("page", state, render, media_type="text/plain")).content

        assert await asyncio.gather(*(get("one") for _ in range(20))) == [b"1"] * 20
        assert [await get("one"), await get("two"), await get("two")] == [b"1", b"2", b"2"]

    asyncio.run(scene())
    assert threading.main_thread() not in rendered


def test_failed_rendering_is_tried_again_and_a_cancelled_one_goes_on():
    async def scene():
        cache, tries = DocumentCache(), []

        def render():
            tries.append(1)
            if len(tries) == 1:
                raise ValueError("not yet")
            time.sleep(0.02)
            return b"done"

        def get():
            return cache.get("page", 1, render, media_type="text/plain")

        with pytest.raises(ValueError, match="not yet"):
            await get()
        gone = asyncio.ensure_future(get())
        await asyncio.sleep(0)
        gone.cancel()
        assert (await get()).content == b"done"
        assert len(tries) == 2

    asyncio.run(scene())


def test_models_are_listed_anew_after_a_change(client, encoder):
    before = client.get("/models")
    registry = client.app.state.registry
    registry.models = registry.models[1:]
    after = client.get("/models", headers={"If-None-Match": before.headers["etag"]})
    assert [model["name"] for model in after.json()["models"]] == ["fake-encoder"]


def test_rendering_is_shared_by_those_who_ask_and_never_older_than_the_question():
    counts = {"events": 0, "renderings": 0}

    async def scene():
        def render():
            counts["renderings"] += 1
            time.sleep(0.002)
            return b"%d" % counts["events"]

        page = SharedRendering(render)

        async def client(number):
            for _ in range(5):
                counts["events"] += 1
                known = counts["events"]
                assert int(await page.get()) >= known
                await asyncio.sleep(0.001 * number)

        started = time.monotonic()
        await asyncio.gather(*map(client, range(20)))
        took = time.monotonic() - started
        assert counts["renderings"] <= 20
        assert counts["renderings"] * 0.002 <= 0.2 * took + 0.002, "a tenth of the time, with the clock's grain"

    asyncio.run(scene())


def test_rendering_outlives_who_asked_and_fails_alone():
    async def scene():
        fails = [True]

        def render():
            time.sleep(0.01)
            if fails:
                raise ValueError("once")
            return b"page"

        page = SharedRendering(render)
        with pytest.raises(ValueError, match="once"):
            await page.get()
        fails.clear()
        gone = asyncio.ensure_future(page.get())
        await asyncio.sleep(0)
        gone.cancel()
        assert await asyncio.wait_for(page.get(), SOON) == b"page"

    asyncio.run(scene())
