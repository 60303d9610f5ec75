"""/admin/bundles: add, replace and remove bundles of the running server; for admin keys only."""

from fastapi import APIRouter, Request

from server.errors import (
    BundleNameTaken,
    BundleRefused,
    ChangeInProgress,
    Forbidden,
    NotReady,
    TooManyRequests,
    Unauthorized,
    UnknownModel,
)
from server.registry.hot_swap import HotSwap, body_of
from server.routes.body import read_object
from server.routes.openapi import BODY_FAULTS, json_body, problems
from server.routes.services import pipeline_of, registry_of
from server.schemas import ADMIN_BUNDLES, BundleChange, BundlePath, BundlesAnswer

# The middleware looks at the key's role before anything of a request is read.
router = APIRouter(tags=["admin"], prefix=ADMIN_BUNDLES, responses=problems(Unauthorized, Forbidden))
_BODY = json_body(BundlePath)
_REMOVAL = (UnknownModel, ChangeInProgress, BundleRefused, TooManyRequests, NotReady)
_CHANGES = (*BODY_FAULTS, ChangeInProgress, BundleNameTaken, BundleRefused)


@router.get("", summary="Bundles being served, and their folders")
async def bundles(request: Request) -> BundlesAnswer:
    """Lists bundles in their order of preference: the first that supports a task is its default."""
    roots = pipeline_of(request).settings.bundle_roots
    return BundlesAnswer(
        bundles=[body_of(model) for model in registry_of(request).models], roots=[str(root) for root in roots]
    )


@router.post("", summary="Add a bundle", responses=problems(*_CHANGES), openapi_extra=_BODY)
async def add(request: Request) -> BundleChange:
    """Loads the bundle, checks its files, certificates and canary, warms it up, and then serves it.

    Requests for other bundles are answered meanwhile; a bundle that fails its checks changes nothing.

        curl -H "X-API-Key: $KEY" -H "Content-Type: application/json" -d '{"path": "clip-vit-b-32"}' \\
            localhost:8000/admin/bundles
    """
    body = await read_object(request, BundlePath)
    return await _hot_swap(request).add(body.path)


@router.put("/{name}", summary="Replace a bundle", responses=problems(UnknownModel, *_CHANGES), openapi_extra=_BODY)
async def replace(request: Request, name: str) -> BundleChange:
    """Loads the new bundle in the same way and gives it the old one's position; its name may differ.

    The old bundle finishes the requests it has accepted and then frees its memory. Until then both must fit in memory.
    """
    body = await read_object(request, BundlePath)
    return await _hot_swap(request).replace(name, body.path)


@router.delete("/{name}", summary="Remove a bundle", responses=problems(*_REMOVAL))
async def remove(request: Request, name: str) -> BundleChange:
    """The bundle finishes the requests it has accepted and then frees its memory."""
    return await _hot_swap(request).remove(name)


def _hot_swap(request: Request) -> HotSwap:
    hot_swap: HotSwap = request.app.state.hot_swap
    return hot_swap
