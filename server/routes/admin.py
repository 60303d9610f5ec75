"""/admin/bundles: add, replace and remove bundles of the running server; for admin keys only."""

from fastapi import APIRouter, Depends, Request

from server.errors import Forbidden
from server.middleware.request_context import request_context
from server.middleware.request_middleware import ADMIN
from server.registry.hot_swap import Change, HotSwap, Place
from server.routes.body import pipeline_of
from server.routes.openapi import problems
from server.schemas import BundleBody, BundleChange, BundlePath, BundlesAnswer


def _require_admin(request: Request) -> None:
    context = request_context(request.scope)
    if not context.admin:
        raise Forbidden(f"the API key of {context.client} is not an admin key: `openset key new --admin` makes one")


router = APIRouter(tags=["admin"], prefix=ADMIN, dependencies=[Depends(_require_admin)], responses=problems(401, 403))


@router.get("", summary="Bundles being served, and their folders")
async def bundles(request: Request) -> BundlesAnswer:
    """Lists bundles in their order of preference: the first that supports a task is its default."""
    roots = pipeline_of(request).settings.bundle_roots
    return BundlesAnswer(bundles=_served_bundles(request), roots=[str(root) for root in roots])


@router.post("", summary="Add a bundle", responses=problems(409, 413, 422, 503))
async def add(request: Request, body: BundlePath) -> BundleChange:
    """Loads the bundle, checks its files, certificates and canary, warms it up, and then serves it.

    Requests for other bundles are answered meanwhile; a bundle that fails its checks changes nothing.

        curl -H "X-API-Key: $KEY" -H "Content-Type: application/json" -d '{"path": "clip-vit-b-32"}' \\
            localhost:8000/admin/bundles
    """
    return _change_body(request, await _hot_swap(request).add(body.path))


@router.put("/{name}", summary="Replace a bundle", responses=problems(404, 409, 413, 422, 503))
async def replace(request: Request, name: str, body: BundlePath) -> BundleChange:
    """Loads the new bundle in the same way and gives it the old one's position; its name may differ.

    The old bundle finishes the requests it has accepted and then frees its memory. Until then both must fit in memory.
    """
    return _change_body(request, await _hot_swap(request).replace(name, body.path))


@router.delete("/{name}", summary="Remove a bundle", responses=problems(404, 409, 503))
async def remove(request: Request, name: str) -> BundleChange:
    """The bundle finishes the requests it has accepted and then frees its memory."""
    return _change_body(request, await _hot_swap(request).remove(name))


def _hot_swap(request: Request) -> HotSwap:
    hot_swap: HotSwap = request.app.state.changes
    return hot_swap


def _served_bundles(request: Request) -> list[BundleBody]:
    return [_bundle_body(Place.of(served)) for served in pipeline_of(request).registry.served]


def _bundle_body(place: Place) -> BundleBody:
    return BundleBody(name=place.name, family=place.family, version=place.version, path=str(place.path))


def _change_body(request: Request, change: Change) -> BundleChange:
    return BundleChange(
        added=_bundle_body(change.added) if change.added else None,
        removed=_bundle_body(change.removed) if change.removed else None,
        load_s=round(change.load_s, 3),
        drain_s=round(change.drain_s, 3),
        bundles=_served_bundles(request),
    )
