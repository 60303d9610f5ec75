"""/admin/bundles: what is served, changed while requests are answered; only for admin keys."""

from fastapi import APIRouter, Depends, Request

from server.errors import Forbidden
from server.registry.hot_swap import HotSwap, body_of
from server.request_context import request_context
from server.routes.body import pipeline_of, registry_of
from server.routes.openapi import problems
from server.schemas import ADMIN_BUNDLES, BundleChange, BundlePath, BundlesAnswer


def _admin(request: Request) -> None:
    context = request_context(request.scope)
    if not context.admin:
        raise Forbidden(f"the API key of {context.client} is no admin key: `openset key new --admin` makes one")


router = APIRouter(tags=["admin"], prefix=ADMIN_BUNDLES, dependencies=[Depends(_admin)], responses=problems(401, 403))


@router.get("", summary="Bundles being served, and from where")
async def bundles(request: Request) -> BundlesAnswer:
    """In the order in which they answer: the first that can do a task is its default."""
    roots = pipeline_of(request).settings.bundle_roots
    return BundlesAnswer(
        bundles=[body_of(model) for model in registry_of(request).models], roots=[str(root) for root in roots]
    )


@router.post("", summary="Serve one more bundle", responses=problems(409, 413, 422, 503))
async def add(request: Request, body: BundlePath) -> BundleChange:
    """Loads the bundle, checks its files, certificates and canary, warms it, and then lets requests choose it.

    Meanwhile all others are answered; a bundle that fails its checks changes nothing.

        curl -H "X-API-Key: $KEY" -H "Content-Type: application/json" -d '{"path": "clip-vit-b-32"}' \\
            localhost:8000/admin/bundles
    """
    return await _hot_swap(request).add(body.path)


@router.put("/{name}", summary="Replace a bundle", responses=problems(404, 409, 413, 422, 503))
async def replace(request: Request, name: str, body: BundlePath) -> BundleChange:
    """Loads the new bundle as above and gives it the old one's place; it may have another name.

    Requests that the old one has accepted are finished by it; its memory is given back after the last. Both need room
    until then.
    """
    return await _hot_swap(request).replace(name, body.path)


@router.delete("/{name}", summary="Serve a bundle no longer", responses=problems(404, 409, 503))
async def remove(request: Request, name: str) -> BundleChange:
    """Requests that it has accepted are finished; then its memory is given back."""
    return await _hot_swap(request).remove(name)


def _hot_swap(request: Request) -> HotSwap:
    hot_swap: HotSwap = request.app.state.hot_swap
    return hot_swap
