"""The protocol's endpoints: health, metadata, inference."""

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response

from server.contract.text import shown
from server.errors import NotReady, UnknownModel, WorkerStopped
from server.inference.loaded_model import LoadedModel
from server.registry.model_registry import ModelRegistry
from server.request_context import request_context
from server.routes import system
from server.routes.body import JSON, keep_inputs_for_log, max_values, respond, unpacked, until_disconnected
from server.routes.open_inference.schemas import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    ModelReady,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from server.routes.open_inference.tasks import (
    AnyRequest,
    as_request,
    infer_tensors,
    inputs_of,
    outputs_of,
    read_scheduling,
    task_of,
)
from server.routes.open_inference.tensors import HEADER_LENGTH, Tensor, read_request, write_outputs
from server.routes.openapi import BODY_FAULTS, RUN_FAULTS, object_body, problems
from server.routes.payload import check_encoding, receive_body
from server.routes.services import pipeline_of, registry_of

router = APIRouter(tags=["open inference protocol"])
BINARY = "application/octet-stream"
PLATFORM = "openset"
EXTENSIONS = ["binary_tensor_data", "parameters"]
_UNHEALTHY = problems(NotReady, WorkerStopped)
_NO_MODEL = problems(UnknownModel, NotReady)
_MODEL_UNHEALTHY = problems(UnknownModel, NotReady, WorkerStopped)


@router.get("/v2", summary="Server metadata")
async def server_metadata(request: Request) -> ServerMetadata:
    """The server's name and version, and the extensions of the protocol that it supports."""
    return ServerMetadata(name="openset", version=request.app.version, extensions=EXTENSIONS)


@router.get("/v2/health/live", summary="Is the process healthy?", responses=_UNHEALTHY)
async def live(request: Request) -> ServerLive:
    """Same as `/livez`."""
    await system.livez(request)
    return ServerLive()


@router.get("/v2/health/ready", summary="Is the server ready for requests?", responses=_UNHEALTHY)
async def ready(request: Request) -> ServerReady:
    """Same as `/readyz`."""
    await system.readyz(request)
    return ServerReady()


@router.get("/v2/models/{name}", summary="Model metadata", responses=_NO_MODEL)
async def model_metadata(request: Request, name: str) -> ModelMetadata:
    """The input and output tensors of a model. A request needs `image` and the other inputs of one task."""
    return _metadata(request, name)


@router.get("/v2/models/{name}/versions/{version}", summary="Metadata of a model's version", responses=_NO_MODEL)
async def model_version_metadata(request: Request, name: str, version: str) -> ModelMetadata:
    """Same as without the version, which must be the one that is served."""
    return _metadata(request, name, version)


def _metadata(request: Request, name: str, version: str | None = None) -> ModelMetadata:
    manifest = _loaded(registry_of(request), name, version).bundle.manifest
    return ModelMetadata(
        name=manifest.name,
        versions=[manifest.version],
        platform=PLATFORM,
        inputs=inputs_of(manifest.tasks),
        outputs=outputs_of(manifest.tasks),
    )


@router.get("/v2/models/{name}/ready", summary="Is a model ready?", responses=_MODEL_UNHEALTHY)
async def model_ready(request: Request, name: str) -> ModelReady:
    """503 while models are being loaded, and if this model's worker has died."""
    return _readiness(request, name)


@router.get("/v2/models/{name}/versions/{version}/ready", summary="Is a version ready?", responses=_MODEL_UNHEALTHY)
async def model_version_ready(request: Request, name: str, version: str) -> ModelReady:
    """Same as without the version, which must be the one that is served."""
    return _readiness(request, name, version)


def _readiness(request: Request, name: str, version: str | None = None) -> ModelReady:
    registry = registry_of(request)
    model = _loaded(registry, name, version)
    if model.name in registry.dead():
        raise WorkerStopped(f"the worker of {model.name} has died or hangs: restart the server")
    return ModelReady(name=model.name)


_INFER: dict[str, Any] = {
    "summary": "Infer from tensors",
    "response_model": InferResponse,
    "response_model_exclude_none": True,
    "responses": problems(*BODY_FAULTS, *RUN_FAULTS),
    "openapi_extra": object_body(InferRequest),
}


@router.post("/v2/models/{name}/infer", **_INFER)
async def infer(request: Request, name: str) -> Response:
    """Runs detection, classification or similarity, depending on the model and the inputs.

    The input `image` is BYTES (encoded files; in JSON as base64) or UINT8 (pixels). Binary tensors may follow the JSON,
    whose length is then in the header Inference-Header-Content-Length.
    """
    return await _infer(request, name)


@router.post("/v2/models/{name}/versions/{version}/infer", **_INFER)
async def infer_version(request: Request, name: str, version: str) -> Response:
    """Same as without the version, which must be the one that is served."""
    return await _infer(request, name, version)


async def _infer(request: Request, name: str, version: str | None = None) -> Response:
    pipeline, context = pipeline_of(request), request_context(request.scope)
    encoding, header_length = check_encoding(request), request.headers.get(HEADER_LENGTH)
    received = await receive_body(request)
    model = _loaded(registry_of(request), name, version)

    def parse(content: bytearray) -> tuple[InferRequest, AnyRequest]:
        parsed = read_request(content, header_length, max_values=max_values(pipeline.settings))
        task = task_of(model.bundle.tasks, parsed.contents)
        return parsed.request, as_request(task, model.name, parsed, pipeline.settings)

    inference, body = await unpacked(request, received, encoding, parse)
    del received
    context.hold(body.picture_bytes)
    read_scheduling(inference.parameters, context)
    keep_inputs_for_log(request, body)
    tensors = await until_disconnected(request, infer_tensors(pipeline, body, context))
    head, binary = await pipeline.in_short(lambda: _written(model, inference, tensors))
    if binary is None:
        return respond(request, head, JSON)
    return respond(request, head + binary, BINARY, {HEADER_LENGTH: str(len(head))})


def _written(model: LoadedModel, request: InferRequest, tensors: Mapping[str, Tensor]) -> tuple[bytes, bytes | None]:
    """The JSON of the response, and the binary tensors behind it if there are any."""
    manifest = model.bundle.manifest
    outputs, binary = write_outputs(request, tensors)
    response = InferResponse(model_name=manifest.name, model_version=manifest.version, id=request.id, outputs=outputs)
    head = response.model_dump_json(exclude_none=True).encode()
    return head, binary if any(output.parameters for output in outputs) else None


def _loaded(registry: ModelRegistry, name: str, version: str | None) -> LoadedModel:
    """The model of exactly this name and version."""
    if not registry.ready:
        raise NotReady("the server is loading its bundles, or stopping")
    for model in registry.models:
        if model.name == name and version in (None, model.bundle.manifest.version):
            return model
    known = ", ".join(f"{model.name} (version {model.bundle.manifest.version})" for model in registry.models)
    wanted = shown(name) + (f" of version {shown(version)}" if version is not None else "")
    raise UnknownModel(f"there is no model {wanted}; the models are {known or 'none'}")
