"""Bundles added, replaced and removed while requests are answered: none is lost, and nothing is kept."""

import asyncio
import threading
import weakref
from pathlib import Path

import pytest

from server.contract.manifest import BundleError
from tests.server.fakes import FakeDetector, FakeEncoder
from tests.server.test_app import SOON, Held, ask, batcher, metric, until

ADMIN = {"X-API-Key": "osk_admin"}
USER = {"X-API-Key": "osk_user"}


@pytest.fixture
def shelf(roots, tmp_path, monkeypatch):
    """Puts a fake bundle into a folder of the root, from where the server opens it."""
    bundles = {}

    def put(folder, bundle):
        (roots / folder).mkdir(exist_ok=True)
        bundle.folder = roots / folder
        bundles[roots / folder] = bundle
        return bundle

    def manifest(folder):
        if folder not in bundles:
            raise BundleError(f"{folder} is no bundle: it has no manifest.json")
        return bundles[folder].manifest

    monkeypatch.setattr("server.registry.hot_swap.read_manifest", manifest)
    monkeypatch.setattr("server.registry.footprints.weights_bytes", lambda folder, _: bundles[folder].weights_bytes)
    monkeypatch.setattr("server.registry.hot_swap.open_bundle", lambda folder, _: bundles.pop(folder))
    monkeypatch.setattr("server.registry.hot_swap.probe_bundle", lambda *_, **__: None)
    return put


def change(client, method, name="", path=None, headers=ADMIN):
    body = None if path is None else {"path": str(path)}
    return asyncio.ensure_future(client.request(method, "/admin/bundles" + name, json=body, headers=headers))


def names(answer):
    return [bundle["name"] for bundle in answer.json()["bundles"]]


def sending(client, headers=USER):
    """The client, whose own requests carry a key."""
    client.headers.update(headers)
    return client


async def series(client, model):
    text = (await client.get("/metrics")).text
    return [line for line in text.splitlines() if f'model="{model}"' in line]


def held_up(bundle):
    """An event that says that `bundle` is being loaded, and one that lets this go on."""
    loading, go_on = threading.Event(), threading.Event()

    def slowly():
        loading.set()
        assert go_on.wait(SOON)

    bundle.check_canary = slowly
    return loading, go_on


def test_added_bundle_answers_behind_the_others(serving, shelf, detector, tmp_path):
    shelf("second", FakeDetector(tmp_path, name="second"))

    async def scene():
        async with serving(detector) as client:
            answer = await change(client, "POST", path="second")
            assert (answer.status_code, names(answer)) == (200, ["fake-detector", "second"])
            assert Path(answer.json()["added"]["path"]).parts[-2:] == ("root", "second")
            sending(client)
            assert (await ask(client, "dog")).json()["model"]["name"] == "fake-detector", "the default stays"
            models = (await client.get("/models")).json()
            assert [model["name"] for model in models["models"]] == ["fake-detector", "second"]
            assert await metric(client, 'openset_certificate_valid{model="second",part="detector"}') == 1

    asyncio.run(scene())


def test_replaced_bundle_finishes_what_it_accepted_and_the_new_one_takes_the_rest(serving, shelf, detector, tmp_path):
    new = shelf("new", FakeDetector(tmp_path))
    new.manifest = new.manifest.model_copy(update={"version": "2"})
    last = FakeEncoder(tmp_path)

    async def scene():
        held = Held(detector)
        async with serving(detector, last) as client:
            sending(client)
            old = [ask(client, "dog")]
            await until(held.started.is_set)
            old += [ask(client, "cat"), ask(client, "dog", "bird")]
            await until(lambda: len(batcher(client)._queue) == 2)
            changing = change(client, "PUT", "/fake-detector", "new")
            await until(lambda: client.app.state.registry.models[0].bundle is new)
            assert (await ask(client, "dog")).json()["model"]["version"] == "2", "while the old one drains"
            assert not changing.done()
            held.gate.set()
            answers = await asyncio.gather(*old)
            assert [(a.status_code, a.json()["model"]["version"]) for a in answers] == [(200, "1")] * 3
            done = await changing
            assert (done.status_code, names(done)) == (200, ["fake-detector", "fake-encoder"]), "it keeps its place"
            assert done.json()["removed"]["version"] == "1"
            assert new.text_runs == [1], "features of the bundle before are not its own"

    asyncio.run(scene())


def test_loading_stalls_no_request(serving, shelf, detector, tmp_path):
    loading, go_on = held_up(shelf("new", FakeDetector(tmp_path)))

    async def scene():
        async with serving(detector) as client:
            sending(client)
            changing = change(client, "PUT", "/fake-detector", "new")
            await until(loading.is_set)
            for _ in range(3):
                assert (await ask(client, "dog")).status_code == 200
            assert not changing.done()
            go_on.set()
            assert (await changing).status_code == 200

    asyncio.run(scene())


def test_removed_bundle_is_collected_and_its_memory_and_series_are_gone(serving, shelf, detector, tmp_path):
    second = FakeDetector(tmp_path, name="second")
    alive = weakref.ref(shelf("second", second))
    del second

    async def scene():
        async with serving(detector) as client:
            registry = client.app.state.registry
            sending(client)
            alone, cap = (await client.get("/models")).json()["memory"], registry.pool.cap
            await change(client, "POST", path="second")
            files, data = [("image", b"no picture")], {"labels": ["dog"], "model": "second"}
            assert (await client.post("/detect", files=files, data=data)).status_code == 415
            assert (await ask(client, "dog")).status_code == 200
            assert (await client.get("/models")).json()["memory"]["total_bytes"] > alone["total_bytes"]
            assert await series(client, "second")
            assert registry.pool.cap == 2 * cap
            answer = await change(client, "DELETE", "/second")
            assert (answer.status_code, names(answer)) == (200, ["fake-detector"])
            assert (await client.get("/models")).json()["memory"] == alone
            assert await series(client, "second") == []
            stats = registry.pool.stats()
            assert registry.pool.cap == cap
            assert (stats.in_use, dict(stats.blocks), dict(stats.leaked)) == (0, {}, {})
            assert stats.reserved <= cap
            assert client.app.state.pipeline._cache.bytes < 2000, "the features of the one that stays"
            assert alive() is None
            assert [t.name for t in threading.enumerate() if "second" in t.name] == []
            gone = await client.post("/detect", files=files, data=data)
            assert (gone.status_code, gone.json()["type"]) == (404, "urn:openset:problem:unknown-model")

    asyncio.run(scene())


def test_bundle_is_not_collected_before_its_last_request_is_answered(serving, shelf, tmp_path):
    bundle = FakeDetector(tmp_path)
    held = Held(bundle)

    async def scene():
        async with serving(bundle) as client:
            sending(client)
            last = ask(client, "dog")
            await until(held.started.is_set)
            removing = change(client, "DELETE", "/fake-detector")
            await until(lambda: not client.app.state.registry.models)
            assert (await ask(client, "dog")).status_code == 404
            assert (await client.get("/readyz")).status_code == 200
            held.gate.set()
            assert (await last).status_code == 200
            assert (await removing).json()["bundles"] == []

    asyncio.run(scene())


def break_canary(bundle):
    def differ():
        raise BundleError("the canary of detector differs in boxes")

    bundle.check_canary = differ


def break_run(bundle):
    def fail():
        raise RuntimeError("the graph has no such node")

    bundle.before_run = fail


def name_as_another(bundle):
    bundle.manifest = bundle.manifest.model_copy(update={"name": "fake-encoder"})


@pytest.mark.parametrize(
    ("spoil", "kind", "reason"),
    [
        (break_canary, "bundle-refused", "the canary of detector differs in boxes"),
        (break_run, "bundle-refused", "cannot be run: the graph has no such node"),
        (name_as_another, "bundle-name-taken", "a bundle named fake-encoder is being served"),
    ],
)
@pytest.mark.parametrize(("method", "name"), [("POST", ""), ("PUT", "/fake-detector")])
def test_bundle_that_fails_its_checks_changes_nothing(
    serving, shelf, detector, encoder, tmp_path, spoil, kind, reason, method, name
):
    bad = shelf("bad", FakeDetector(tmp_path, name="bad"))
    spoil(bad)

    async def scene():
        async with serving(detector, encoder, warm_up="largest") as client:
            sending(client)
            before = [await client.get(path) for path in ("/models", "/readyz")]
            registry = client.app.state.registry
            served, cap = registry.models, registry.pool.cap
            refused = await change(client, method, name, "bad")
            assert refused.json()["type"] == f"urn:openset:problem:{kind}"
            assert reason in refused.json()["detail"]
            assert registry.models == served
            assert registry.pool.cap == cap
            assert [(await client.get(path)).text for path in ("/models", "/readyz")] == [b.text for b in before]
            assert await series(client, "bad") == []
            assert (await ask(client, "dog")).status_code == 200

    asyncio.run(scene())


def test_folder_that_is_no_bundle_is_refused_by_its_name(serving, roots, shelf, detector):
    (roots / "empty").mkdir()

    async def scene():
        async with serving(detector) as client:
            refused = await change(client, "POST", path="empty")
            assert (refused.status_code, refused.json()["type"]) == (422, "urn:openset:problem:bundle-refused")
            assert "is no bundle: it has no manifest.json" in refused.json()["detail"]

    asyncio.run(scene())


def test_replacing_needs_room_for_both_and_says_so(serving, shelf, detector, tmp_path, monkeypatch):
    monkeypatch.setattr("server.registry.footprints.resident_bytes", lambda: 0)
    detector.file_bytes = 2**30
    new = shelf("new", FakeDetector(tmp_path))
    new.file_bytes = 2**30
    room = {"memory_limit_bytes": 2**31 - 1, "pool_bytes": 2**24, "prompt_cache_bytes": 0}

    async def scene():
        async with serving(detector, **room) as client:
            refused = await change(client, "PUT", "/fake-detector", "new")
            assert refused.json()["type"] == "urn:openset:problem:bundle-refused"
            assert "fake-detector does not fit in host memory" in refused.json()["detail"]
            assert "bundles before it 1025.7 MiB" in refused.json()["detail"]
            assert "Until fake-detector has answered its last request both are held" in refused.json()["detail"]
            assert (await change(client, "DELETE", "/fake-detector")).status_code == 200
            assert (await change(client, "POST", path="new")).status_code == 200, "now there is room"

    asyncio.run(scene())


def test_second_change_at_once_is_refused_with_409(serving, shelf, detector, encoder, tmp_path):
    shelf("new", FakeDetector(tmp_path))
    held = Held(detector)

    async def scene():
        async with serving(detector, encoder) as client:
            sending(client)
            last = ask(client, "dog")
            await until(held.started.is_set)
            first = change(client, "PUT", "/fake-detector", "new")
            await until(lambda: client.app.state.hot_swap._running)
            second = await change(client, "DELETE", "/fake-encoder")
            assert (second.status_code, second.json()["type"]) == (409, "urn:openset:problem:change-in-progress")
            held.gate.set()
            assert [(await each).status_code for each in (first, last)] == [200, 200]
            assert (await change(client, "DELETE", "/fake-encoder")).status_code == 200

    asyncio.run(scene())


def test_dead_worker_is_mended_by_replacing_its_bundle(serving, shelf, detector, tmp_path):
    shelf("new", FakeDetector(tmp_path))

    def die():
        raise SystemExit

    detector.before_run = die

    async def scene():
        async with serving(detector) as client:
            sending(client)
            assert (await ask(client, "dog")).status_code == 503
            assert (await client.get("/livez")).status_code == 503
            assert (await change(client, "PUT", "/fake-detector", "new")).status_code == 200
            assert (await client.get("/livez")).status_code == 200
            assert (await ask(client, "dog")).status_code == 200

    asyncio.run(scene())


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_unknown_name_is_a_404_with_those_that_are_served(serving, shelf, detector, tmp_path, method):
    shelf("new", FakeDetector(tmp_path))

    async def scene():
        async with serving(detector) as client:
            answer = await change(client, method, "/nobody", "new" if method == "PUT" else None)
            assert answer.status_code == 404
            assert "no bundle is named 'nobody'; those being served: fake-detector" in answer.json()["detail"]

    asyncio.run(scene())


def test_absolute_path_within_a_root_is_taken(serving, roots, shelf, detector, tmp_path):
    shelf("second", FakeDetector(tmp_path, name="second"))

    async def scene():
        async with serving(detector) as client:
            assert (await change(client, "POST", path=roots / "second")).status_code == 200

    asyncio.run(scene())


def test_change_whose_client_has_gone_is_finished(serving, shelf, detector, tmp_path):
    new = shelf("new", FakeDetector(tmp_path))
    loading, go_on = held_up(new)

    async def scene():
        async with serving(detector) as client:
            changing = change(client, "PUT", "/fake-detector", "new")
            await until(loading.is_set)
            changing.cancel()
            go_on.set()
            await until(lambda: client.app.state.registry.models[0].bundle is new)
            await until(lambda: client.app.state.hot_swap._running is None)

    asyncio.run(scene())


def test_stopping_does_not_wait_for_a_bundle_that_loads(serving, shelf, detector, tmp_path):
    loading, go_on = held_up(shelf("new", FakeDetector(tmp_path)))

    async def scene():
        async with serving(detector) as client:
            changing = change(client, "PUT", "/fake-detector", "new")
            await until(loading.is_set)
        assert not go_on.is_set()
        with pytest.raises(asyncio.CancelledError):
            await changing

    asyncio.run(scene())
    go_on.set()
