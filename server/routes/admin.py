"""/admin/bundles: add, replace and remove bundles of the running server; for admin keys only."""

from fastapi import APIRouter, Depends, Request

from server.errors import Forbidden
from server.registry.hot_swap import HotSwap, body_of
from server.request_context import request_context
from server.routes.body import pipeline_of, registry_of
from server.routes.openapi import problems
from server.schemas import ADMIN_BUNDLES, BundleChange, BundlePath, BundlesAnswer


def _check_admin(request: Request) -> None:
    context = request_context(request.scope)
    if not context.admin:
        raise Forbidden(f"the API key of {context.client} is not an admin key: `openset key new --admin` makes one")


router = APIRouter(
    tags=["admin"], prefix=ADMIN_BUNDLES, dependencies=[Depends(_check_admin)], responses=problems(401, 403)
)


@router.get("", summary="Bundles being served, and their folders")
async def bundles(request: Request) -> BundlesAnswer:
    """Lists bundles in their order of preference: the first that supports a task is its default."""
    roots = pipeline_of(request).settings.bundle_roots
    return BundlesAnswer(
        bundles=[body_of(model) for model in registry_of(request).models], roots=[str(root) for root in roots]
    )


@router.post("", summary="Add a bundle", responses=problems(409, 413, 422, 503))
async def add(request: Request, body: BundlePath) -> BundleChange:
    """Loads the bundle, checks its files, certificates and canary, warms it up, and then serves it.

    Requests for other bundles are answered meanwhile; a bundle that fails its checks changes nothing.

        curl -H "X-API-Key: $KEY" -H "Content-Type: application/json" -d '{"path": "clip-vit-b-32"}' \\
            localhost:8000/admin/bundles
    """
    return await _hot_swap(request).add(body.path)


@router.put("/{name}", summary="Replace a bundle", responses=problems(404, 409, 413, 422, 503))
async def replace(request: Request, name: str, body: BundlePath) -> BundleChange:
    """Loads the new bundle in the same way and gives it the old one's position; its name may differ.

    The old bundle finishes the requests it has accepted and then frees its memory. Until then both must fit in memory.
    """
    return await _hot_swap(request).replace(name, body.path)


@router.delete("/{name}", summary="Remove a bundle", responses=problems(404, 409, 503))
async def remove(request: Request, name: str) -> BundleChange:
    """The bundle finishes the requests it has accepted and then frees its memory."""
    return await _hot_swap(request).remove(name)


def _hot_swap(request: Request) -> HotSwap:
    hot_swap: HotSwap = request.app.state.hot_swap
    return hot_swap
