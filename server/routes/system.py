"""What operators ask: which models are served, is the server alive, ready, and how is it doing."""

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from server.bundle import Bundle
from server.contract.manifest import Artefact
from server.errors import NotReady, WorkerStopped
from server.registry.model_registry import LoadedModel
from server.routes.body import pipeline_of
from server.schemas import ArtefactBody, Health, ModelBody, ModelsAnswer, Problem

router = APIRouter(tags=["system"])
_UNWELL: dict[int | str, dict[str, Any]] = {503: {"model": Problem}}


@router.get("/models", summary="Models, their certificates and limits")
async def models(request: Request) -> ModelsAnswer:
    """The models being served; the first that can do a task answers requests that name none."""
    pipeline = pipeline_of(request)
    names = ("max_images", "max_labels", "max_passes", "max_body_bytes", "max_image_pixels", "max_aspect_ratio")
    return ModelsAnswer(
        models=[_model(served) for served in pipeline.registry.served],
        limits={name: getattr(pipeline.settings, name) for name in names},
        memory=pipeline.registry.budget,
    )


@router.get("/livez", summary="Is the process healthy?", responses=_UNWELL)
async def livez(request: Request) -> Health:
    """503 when a worker has died or the bundles could not be loaded: the process should be started again."""
    registry = pipeline_of(request).registry
    if registry.failure:
        raise NotReady(f"the bundles could not be loaded: {registry.failure}")
    if dead := registry.dead():
        raise WorkerStopped(f"the worker of {', '.join(dead)} has died: start the server again")
    return Health()


@router.get("/readyz", summary="May requests be sent?", responses=_UNWELL)
async def readyz(request: Request) -> Health:
    """503 until every bundle is loaded, its canary has run, and it is warm; and when it can no longer answer."""
    registry = pipeline_of(request).registry
    if not registry.ready:
        raise NotReady("bundles are being loaded, or the server is stopping")
    return await livez(request)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """All metrics in Prometheus' text format."""
    return Response(pipeline_of(request).metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _model(served: LoadedModel) -> ModelBody:
    manifest = served.bundle.manifest
    rules = manifest.detection or manifest.classification
    assert rules is not None, "the manifest gives every bundle its rules"
    return ModelBody(
        name=manifest.name,
        family=manifest.family,
        version=manifest.version,
        variant=manifest.variant,
        tasks=sorted(manifest.tasks),
        licence=manifest.licence,
        source=manifest.source,
        weights_sha256=manifest.weights_sha256,
        defaults=rules.model_dump(),
        limits={"max_tokens": manifest.text.max_tokens, "max_batch": manifest.buckets.max_batch},
        memory=served.footprint,
        artefacts=[_artefact(served.bundle, artefact) for artefact in manifest.artefacts],
    )


def _artefact(bundle: Bundle, artefact: Artefact) -> ArtefactBody:
    in_use = artefact == bundle.artefacts[artefact.part]
    fault = bundle.uncertified.get(artefact.part) if in_use else artefact.uncertified
    return ArtefactBody(
        part=artefact.part,
        runtime=artefact.runtime,
        precision=artefact.precision,
        sha256=artefact.sha256,
        certified=fault is None,
        fault=fault,
        in_use=in_use,
        provider=bundle.providers[artefact.part] if in_use else None,
        refused=bundle.refused.get(artefact.file),
        fallback=bundle.fallbacks.get(artefact.part) if in_use else None,
        certificate=artefact.certificate,
    )
