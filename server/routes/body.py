"""A request's body as the schema's model: JSON with base64 images, a multipart form with files, or one image itself."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from server.contract.text import shown
from server.errors import (
    BodyTimeout,
    ClientGone,
    FieldFault,
    InvalidRequest,
    MalformedBody,
    UnsupportedBody,
    UrlRefused,
    invalid_request,
)
from server.inference.pipeline import Pipeline, check_image_count, image_names
from server.middleware.image_fetcher import ImageFetcher
from server.registry.model_registry import ModelRegistry
from server.request_context import request_context
from server.schemas import ClassifyRequest, DetectRequest, SimilarityRequest
from server.settings import Settings
from server.telemetry.stage_timer import FETCH

RequestModel = TypeVar("RequestModel", DetectRequest, ClassifyRequest, SimilarityRequest)
T = TypeVar("T")

JSON, FORM, RAW = "application/json", "multipart/form-data", "image/*"
IMAGE_FIELDS, URL_FIELDS = ("image", "images"), ("image_url", "image_urls")
# Fields that are given several times in a form or a query.
_LISTS = {"images", "image_urls", "labels", "texts", "templates"}
_PLURALS = {"image": "images", "image_url": "image_urls"}
BODY_TIMEOUT_S = 30.0
# The longest text field of a form; a caption may have 10,000 characters of up to 4 bytes.
_MAX_TEXT_BYTES = 64 * 1024


class _MemoryParser(MultiPartParser):
    """Keeps files in memory, which the bound on the body's bytes allows: uploads never touch a disk."""

    spool_max_size = 2**62
    ended = False

    def on_end(self) -> None:
        """The closing boundary has come; a part without one after it would be dropped in silence."""
        self.ended = True


class _Fields:
    """Fields as a model takes them: lists of what may repeat, all others once; what does not fit is gathered."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._faults: list[FieldFault] = []

    def add(self, name: str, content: str | bytes) -> None:
        """Take one field; `image` is one of `images`, `image_url` of `image_urls`."""
        field = _PLURALS.get(name, name)
        if field in _LISTS:
            self._values.setdefault(field, []).append(content)
        elif field in self._values:
            self.refuse(name, "this field may be given only once")
        else:
            self._values[field] = content

    def refuse(self, name: str, reason: str) -> None:
        """Note what is wrong with a field."""
        self._faults.append(FieldFault(shown(name).strip("'"), reason))

    def taken(self) -> dict[str, Any]:
        """All fields; InvalidRequest where one was refused."""
        if self._faults:
            raise InvalidRequest(self._faults[:20])
        return self._values


def pipeline_of(request: Request) -> Pipeline:
    """The pipeline of the app that `request` came to."""
    pipeline: Pipeline = request.app.state.pipeline
    return pipeline


def registry_of(request: Request) -> ModelRegistry:
    """The model registry of the app that `request` came to."""
    registry: ModelRegistry = request.app.state.registry
    return registry


async def read_body(request: Request, model: type[RequestModel]) -> RequestModel:
    """The request's body as `model`, its images there; a RequestFault says what does not fit."""
    body = await in_time(request, _read(request, model, pipeline_of(request)))
    note_inputs(request, body)
    return await unless_gone(request, _fetched(request, body)) if body.urls else body


async def in_time(request: Request, reading: Awaitable[T]) -> T:
    """What reads the body of `request`, within the time that a client has for sending it."""
    pipeline = pipeline_of(request)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await reading
    except TimeoutError:
        raise BodyTimeout(f"the body did not arrive within {BODY_TIMEOUT_S:g} seconds") from None
    except ClientDisconnect:
        pipeline.metrics.cancelled.labels("read").inc()
        raise ClientGone("the client closed the connection while it sent the body") from None
    except asyncio.CancelledError:
        pipeline.metrics.cancelled.labels("read").inc()
        raise


def note_inputs(request: Request, body: BaseModel) -> None:
    """Note what is asked for the log, without images, where the operator wants it there."""
    if pipeline_of(request).settings.log_inputs:
        request_context(request.scope).inputs = body.model_dump(exclude=set(IMAGE_FIELDS), exclude_defaults=True)


async def _fetched(request: Request, body: RequestModel) -> RequestModel:
    fetcher: ImageFetcher | None = request.app.state.fetcher
    if fetcher is None:
        raise UrlRefused("this server fetches no URLs (its setting `url_images` is off): send the image itself")
    pipeline, context = pipeline_of(request), request_context(request.scope)
    check_image_count(len(body.urls), pipeline.settings)
    try:
        with context.timer.timed(FETCH, pipeline.metrics.fetch_duration):
            images = await fetcher.fetch(body.urls, image_names(len(body.urls)), context)
    except asyncio.CancelledError:
        pipeline.metrics.cancelled.labels("fetch").inc()
        raise
    pipeline.metrics.fetched_bytes.inc(sum(map(len, images)))
    return body.model_copy(update={"images": tuple(images), "image_url": None, "image_urls": ()})


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled as soon as the client closes the connection."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("the client closed the connection")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()
        await asyncio.wait({task, gone})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _read(request: Request, model: type[RequestModel], pipeline: Pipeline) -> RequestModel:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if content_type.startswith("image/"):
            return model.model_validate(await _raw(request))
        _refuse_query(request)
        if content_type == JSON:
            body = await request.body()
            return await pipeline.in_short(lambda: model.model_validate_json(body))
        if content_type == FORM:
            return model.model_validate(await _form(request, model, pipeline.settings))
    except ValidationError as error:
        raise invalid_request(error) from None
    named = f"content type {shown(content_type)} is not read" if content_type else "there is no Content-Type"
    raise UnsupportedBody(f"{named}: send {JSON}, {FORM} or {RAW}")


def _refuse_query(request: Request) -> None:
    fields = _Fields()
    for name in request.query_params:
        fields.refuse(name, f"fields go in the body, unless that is an image itself ({RAW})")
    fields.taken()


async def _raw(request: Request) -> dict[str, Any]:
    """The body as the image, whatever format its bytes turn out to be; the query's parameters as the other fields."""
    fields = _Fields()
    for name, value in request.query_params.multi_items():
        if name in IMAGE_FIELDS + URL_FIELDS:
            fields.refuse(name, "the body is the image")
        else:
            fields.add(name, value)
    return fields.taken() | {"images": [await request.body()]}


async def _form(request: Request, model: type[BaseModel], settings: Settings) -> dict[str, Any]:
    """The form's fields as the model takes them: lists of what may repeat, images as bytes."""
    parser = _MemoryParser(
        request.headers,
        request.stream(),
        # One more of each than will be accepted, so that the schema's refusal names the field.
        max_files=settings.max_images + 1,
        max_fields=settings.max_labels + len(model.model_fields) + 100,
        max_part_size=_MAX_TEXT_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise MalformedBody(f"the form cannot be read: {error.message}") from None
    except (ClientDisconnect, asyncio.CancelledError):
        raise
    except (ValueError, KeyError) as error:  # the parser lets some faults of headers through
        raise MalformedBody("the form cannot be read: its headers are malformed") from error
    if not parser.ended:
        await form.close()
        raise MalformedBody("the form ends before its closing boundary: is the body whole?")
    fields = _Fields()
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) != (name in IMAGE_FIELDS):
                fields.refuse(name, f"this part must be {'a file' if name in IMAGE_FIELDS else 'text, not a file'}")
            else:
                fields.add(name, await value.read() if isinstance(value, UploadFile) else value)
    finally:
        await form.close()
    return fields.taken()
