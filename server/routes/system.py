"""GET /models and their cards, /livez, /readyz, /metrics: models, health and metrics."""

import asyncio
import weakref

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from server.bundle import CARD_FILE, Bundle
from server.contract.image_file import MAX_ASPECT_RATIO
from server.contract.manifest import Artefact
from server.contract.text import shown
from server.errors import NotReady, UnknownModel, WorkerStopped
from server.inference.loaded_model import LoadedModel
from server.routes.body import JSON
from server.routes.documents import SharedRendering, documents_of
from server.routes.openapi import problems
from server.routes.services import pipeline_of, registry_of
from server.schemas import ArtefactBody, Health, ModelBody, ModelsAnswer

MARKDOWN = "text/markdown; charset=utf-8"
router = APIRouter(tags=["system"])
_UNHEALTHY = problems(NotReady, WorkerStopped)


@router.get("/models", summary="Models, their certificates and limits", response_model=ModelsAnswer)
async def models(request: Request) -> Response:
    """Lists the models being served; the first that supports a task is its default."""
    registry, settings = registry_of(request), pipeline_of(request).settings
    served, budget = registry.models, registry.budget
    downloads = request.app.state.fetcher is not None
    names = (
        "max_jobs",
        "job_bytes",
        "job_keep_s",
        "max_images",
        "max_labels",
        "max_passes",
        "max_body_bytes",
        "max_image_pixels",
    )

    def encode() -> bytes:
        answer = ModelsAnswer(
            models=[_model(model) for model in served],
            limits={name: getattr(settings, name) for name in names} | {"max_aspect_ratio": MAX_ASPECT_RATIO},
            url_images=downloads,
            memory=budget,
        )
        return answer.model_dump_json().encode()

    # The cache must not keep a removed model in memory.
    state = tuple(map(weakref.ref, served)), budget
    document = await documents_of(request).get("models", state, encode, media_type=JSON)
    return document.response(request)


@router.get(
    "/models/{name}/card",
    summary="What a model has learnt, for what, and where it fails",
    response_class=Response,
    responses={200: {"content": {MARKDOWN: {"schema": {"type": "string"}}}}, **problems(UnknownModel)},
)
async def model_card(request: Request, name: str) -> Response:
    """Its model card, in Markdown."""
    model = next((model for model in registry_of(request).models if model.name == name), None)
    if model is None:
        raise UnknownModel(f"there is no model {shown(name)}; GET /models lists them")
    if not model.bundle.has_card:
        raise UnknownModel(f"the model {name} has no card: its bundle is without a file {CARD_FILE}")
    state, read = weakref.ref(model), model.bundle.card
    document = await documents_of(request).get(f"card of {name}", state, read, media_type=MARKDOWN)
    return document.response(request)


@router.get("/livez", summary="Is the process healthy?", responses=_UNHEALTHY)
async def livez(request: Request) -> Health:
    """503 if a worker has died or hangs, or the bundles could not be loaded: restart the process.

    A model run hangs where it makes no progress for 120 seconds, or 20 times as long as recent ones took.
    """
    registry = registry_of(request)
    if registry.failure:
        raise NotReady(f"the bundles could not be loaded: {registry.failure}", retry_after=None)
    if dead := registry.dead():
        raise WorkerStopped(f"the worker of {', '.join(dead)} has died or hangs: restart the server")
    return Health()


@router.get("/readyz", summary="Is the server ready for requests?", responses=_UNHEALTHY)
async def readyz(request: Request) -> Health:
    """503 until every bundle is loaded, checked and warmed up, while the server stops, and when it is not healthy."""
    registry = registry_of(request)
    if not registry.ready:
        raise NotReady("the server is loading its bundles, or stopping")
    return await livez(request)


@router.get("/metrics", summary="Prometheus metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """All metrics in the Prometheus text format."""
    page: SharedRendering = request.app.state.metrics_page
    pipeline_of(request).metrics.tasks.set(len(asyncio.all_tasks()))
    return Response(await page.get(), media_type=CONTENT_TYPE_LATEST)


def _model(model: LoadedModel) -> ModelBody:
    manifest = model.bundle.manifest
    rules = manifest.detection or manifest.classification
    assert rules is not None, "the manifest gives every bundle its rules"
    longer = manifest.preprocessing.longer_range
    return ModelBody(
        name=manifest.name,
        family=manifest.family,
        version=manifest.version,
        variant=manifest.variant,
        tasks=sorted(manifest.tasks),
        licence=manifest.licence,
        source=manifest.source,
        weights_sha256=manifest.weights_sha256,
        certified=manifest.certified,
        card=f"models/{manifest.name}/card" if model.bundle.has_card else None,
        defaults=rules.model_dump(),
        limits={
            "max_tokens": manifest.text.max_tokens,
            "max_batch": model.footprint.batch,
            "min_shorter": manifest.preprocessing.shorter_range[0],
            "max_shorter": manifest.preprocessing.shorter_range[1],
            **({"min_longer": longer[0], "max_longer": longer[1]} if longer else {}),
        },
        memory=model.footprint,
        artefacts=[_artefact(model.bundle, artefact) for artefact in manifest.artefacts],
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
