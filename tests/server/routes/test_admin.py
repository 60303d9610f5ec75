"""/admin/bundles: authorisation, allowed folders, documentation."""

import asyncio

import pytest

from tests.server.registry.test_hot_swap import ADMIN, USER, change
from tests.server.test_app import running


def test_bundles_are_listed_with_their_folders_and_roots(serving, roots, detector):
    async def scene():
        async with serving(detector) as client:
            answer = (await client.get("/admin/bundles", headers=ADMIN)).json()
            (bundle,) = answer["bundles"]
            assert (bundle["name"], bundle["family"]) == ("fake-detector", detector.manifest.family)
            assert bundle["path"] == str(detector.folder)
            assert answer["roots"] == [str(roots)]

    asyncio.run(scene())


@pytest.mark.parametrize("path", ["{tmp}/outside", "../outside", "link", "/", "nowhere", "x" * 300, "loop", "a\nb"])
def test_path_outside_the_roots_is_refused_and_not_told_apart_from_nothing(serving, roots, detector, tmp_path, path):
    (roots / "link").symlink_to(tmp_path / "outside")
    (roots / "loop").symlink_to(roots / "loop")

    async def scene():
        async with serving(detector) as client:
            refused = await change(client, "POST", path=path.format(tmp=tmp_path))
            assert (refused.status_code, refused.json()["type"]) == (422, "urn:openset:problem:invalid-request")
            assert "is no folder within bundle_roots" in refused.json()["detail"]

    asyncio.run(scene())


@pytest.mark.parametrize(("method", "name"), [("GET", ""), ("POST", ""), ("PUT", "/x"), ("DELETE", "/x")])
def test_only_admin_keys_may_ask(serving, detector, method, name):
    async def scene():
        async with serving(detector) as client:
            path = "here" if method in ("POST", "PUT") else None
            plain = await change(client, method, name, path, headers=USER)
            assert (plain.status_code, plain.json()["type"]) == (403, "urn:openset:problem:forbidden")
            assert "bob is not an admin key" in plain.json()["detail"]
            assert (await change(client, method, name, path, headers={})).status_code == 401

    asyncio.run(scene())


def test_role_is_looked_at_before_anything_of_the_body_is_read(serving, detector):
    async def scene():
        async def endless():
            raise AssertionError("the body is read")
            yield b""

        async with serving(detector) as client:
            for method, name in (("POST", ""), ("PUT", "/x")):
                answer = await client.request(method, f"/admin/bundles{name}", content=endless(), headers=USER)
                assert answer.status_code == 403

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"[" + b"[]," * 100_000 + b"0]", 422, "it has more than"),
        (b"{", 400, "the body is not JSON"),
        (b'{"folder": "x"}', 422, "did you mean path?"),
    ],
)
def test_body_of_a_change_is_read_within_the_bounds_of_all_others(serving, detector, body, status, told):
    async def scene():
        async with serving(detector) as client:
            headers = ADMIN | {"Content-Type": "application/json"}
            answer = await client.post("/admin/bundles", content=body, headers=headers)
            assert answer.status_code == status
            assert told in answer.text

    asyncio.run(scene())


def test_nothing_can_be_changed_unless_roots_are_set(detector):
    async def scene():
        async with running(detector) as client:
            assert (await change(client, "POST", path="x")).status_code == 404
            assert (await client.get("/admin/bundles")).status_code == 404
            assert "/admin/bundles" not in (await client.get("/openapi.json")).json()["paths"]

    asyncio.run(scene())


def test_names_of_bundles_are_no_labels_of_requests(serving, detector):
    async def scene():
        async with serving(detector) as client:
            await change(client, "DELETE", "/secret-project")
            text = (await client.get("/metrics", headers=USER)).text
            assert 'openset_requests_total{endpoint="/admin/bundles",status="404"} 1.0' in text
            assert "secret-project" not in text

    asyncio.run(scene())


def test_documentation_shows_the_changes_where_they_can_be_made(serving, detector):
    async def scene():
        async with serving(detector) as client:
            document = (await client.get("/openapi.json", headers=USER)).json()
            assert set(document["paths"]["/admin/bundles/{name}"]) == {"put", "delete"}
            answers = document["paths"]["/admin/bundles"]["post"]["responses"]
            assert "bundle-name-taken, change-in-progress" in answers["409"]["description"]
            assert list(answers["422"]["content"]) == ["application/problem+json"]
            assert (await client.get("/docs", headers=USER)).status_code == 200

    asyncio.run(scene())
