"""GET /models, /livez, /readyz, /metrics: models, health and metrics."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from server.bundle import Bundle
from server.contract.manifest import Artefact
from server.errors import NotReady, WorkerStopped
from server.inference.images import MAX_ASPECT_RATIO
from server.memory.budget_schemas import BudgetBody, FootprintBody, GpuBudgetBody, GpuFootprintBody
from server.registry.gpu_budget import GpuFootprint, gpu_total
from server.registry.model_registry import LoadedModel, ModelRegistry
from server.routes.body import pipeline_of
from server.schemas import (
    ArtefactBody,
    Health,
    ModelBody,
    ModelsAnswer,
    Problem,
)

router = APIRouter(tags=["system"])
_UNHEALTHY: dict[int | str, dict[str, Any]] = {503: {"model": Problem}}


@router.get("/models", summary="Models, their certificates and limits")
async def models(request: Request) -> ModelsAnswer:
    """Lists the models being served; the first that supports a task is its default."""
    pipeline = pipeline_of(request)
    names = ("max_images", "max_labels", "max_passes", "max_body_bytes", "max_image_pixels")
    return ModelsAnswer(
        models=[_model(served) for served in pipeline.registry.served],
        limits={name: getattr(pipeline.settings, name) for name in names} | {"max_aspect_ratio": MAX_ASPECT_RATIO},
        memory=_budget(pipeline.registry),
    )


@router.get("/livez", summary="Is the process healthy?", responses=_UNHEALTHY)
async def livez(request: Request) -> Health:
    """503 if a worker has died or the bundles could not be loaded: restart the process."""
    registry = pipeline_of(request).registry
    if registry.failure:
        raise NotReady(f"the bundles could not be loaded: {registry.failure}")
    if dead := registry.dead():
        raise WorkerStopped(f"the worker of {', '.join(dead)} has died: restart the server")
    return Health()


@router.get("/readyz", summary="Is the server ready for requests?", responses=_UNHEALTHY)
async def readyz(request: Request) -> Health:
    """503 until every bundle is loaded, checked and warmed up, while the server stops, and when it is not healthy."""
    registry = pipeline_of(request).registry
    if not registry.ready:
        raise NotReady("the server is loading its bundles, or stopping")
    return await livez(request)


@router.get("/metrics", summary="Prometheus metrics", response_class=Response)
async def metrics(request: Request) -> Response:
    """All metrics in the Prometheus text format."""
    return Response(pipeline_of(request).metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


def _budget(registry: ModelRegistry) -> BudgetBody:
    budget, footprints = registry.budget, [served.footprint for served in registry.served]
    return BudgetBody(
        limit_bytes=budget.limit,
        total_bytes=budget.total(footprints),
        process_bytes=budget.process,
        pool_bytes=budget.pool_cap(footprints),
        prompt_cache_bytes=budget.prompt_cache,
        gpu=_gpu_budget([footprint.gpu for footprint in footprints if footprint.gpu]),
    )


def _gpu_budget(footprints: Sequence[GpuFootprint]) -> GpuBudgetBody | None:
    """The budget of the GPU that runs the models."""
    if not footprints:
        return None
    there = footprints[0].there
    return GpuBudgetBody(
        device=there.device,
        limit_bytes=there.limit,
        total_bytes=gpu_total(footprints),
        block_bytes=max(footprint.there.block for footprint in footprints),
    )


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
        memory=FootprintBody(
            bucket=served.footprint.bucket,
            weights_bytes=served.footprint.weights,
            activations_bytes=served.footprint.activations,
            measured=served.footprint.measured,
            buffers_bytes=served.footprint.buffers,
            gpu=_gpu_footprint(served.footprint.gpu),
        ),
        artefacts=[_artefact(served.bundle, artefact) for artefact in manifest.artefacts],
    )


def _gpu_footprint(footprint: GpuFootprint | None) -> GpuFootprintBody | None:
    if footprint is None:
        return None
    return GpuFootprintBody(
        device=footprint.there.device,
        weights_bytes=footprint.there.weights,
        block_bytes=footprint.there.block,
        batch_bytes=footprint.batches,
        measured=footprint.measured,
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
