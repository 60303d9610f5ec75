"""Request parsing: a body of JSON with base64 images, a multipart form, or one image; and content negotiation."""

import asyncio
from collections.abc import Awaitable, Sequence
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
    NotAcceptable,
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
BODY_TIMEOUT_S = 30.0
# Fields that a form or a query repeats.
_LISTS = {"images", "image_urls", "labels", "texts", "templates"}
_PLURALS = {"image": "images", "image_url": "image_urls"}
# Limit of a form's text field; a caption may have 10,000 characters of up to 4 bytes.
_MAX_TEXT_BYTES = 64 * 1024


class _MemoryParser(MultiPartParser):
    """Multipart parser that keeps files in memory, bounded by the body's limit: uploads never touch a disk."""

    spool_max_size = 2**62
    ended = False

    def on_end(self) -> None:
        """Note the closing boundary; without it the last part would be dropped silently."""
        self.ended = True


class _Fields:
    """Fields of a form or a query, collected into lists where they may repeat; errors are collected too."""

    def __init__(self) -> None:
        self._values: dict[str, Any] = {}
        self._faults: list[FieldFault] = []

    def add(self, name: str, content: str | bytes) -> None:
        """Add one field; `image` is one of `images`, `image_url` of `image_urls`."""
        field = _PLURALS.get(name, name)
        if field in _LISTS:
            self._values.setdefault(field, []).append(content)
        elif field in self._values:
            self.refuse(name, "this field may be given only once")
        else:
            self._values[field] = content

    def refuse(self, name: str, reason: str) -> None:
        """Add an error."""
        self._faults.append(FieldFault(shown(name).strip("'"), reason))

    def values(self) -> dict[str, Any]:
        """All fields; InvalidRequest if there were errors."""
        if self._faults:
            raise InvalidRequest(self._faults[:20])
        return self._values


def pipeline_of(request: Request) -> Pipeline:
    """The pipeline of the app that handles `request`."""
    pipeline: Pipeline = request.app.state.pipeline
    return pipeline


def registry_of(request: Request) -> ModelRegistry:
    """The model registry of the app that `request` came to."""
    registry: ModelRegistry = request.app.state.registry
    return registry


def negotiate(accept: str | None, offered: Sequence[str]) -> str:
    """The media type of `offered` that an Accept header prefers (RFC 9110, 12.5.1); NotAcceptable if it accepts none.

    Between equals the type that is named more exactly wins, then the one offered first.
    """
    qualities: dict[str, float] = {}
    for part in (accept or "*/*").lower().split(","):
        media_range, *parameters = (piece.strip() for piece in part.split(";"))
        qualities[media_range] = max(_quality(parameters), qualities.get(media_range, 0.0))

    def rank(media_type: str) -> tuple[float, int]:
        ranges = ("*/*", media_type.partition("/")[0] + "/*", media_type)
        exactness = max((place for place, name in enumerate(ranges) if name in qualities), default=0)
        return qualities.get(ranges[exactness], 0.0), exactness

    best = max(offered, key=rank)
    if rank(best)[0] <= 0:
        raise NotAcceptable(f"Accept {shown(accept or '')} matches none of {', '.join(offered)}")
    return best


async def read_body(request: Request, model: type[RequestModel]) -> RequestModel:
    """The request's body as `model`, with images by URL downloaded; a RequestFault if it is wrong."""
    body = await within_body_timeout(request, _parse(request, model, pipeline_of(request)))
    keep_inputs_for_log(request, body)
    return await until_disconnected(request, _download_images(request, body)) if body.urls else body


async def within_body_timeout(request: Request, reading: Awaitable[T]) -> T:
    """The result of `reading` the body; BodyTimeout or ClientGone if the body does not arrive."""
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


def keep_inputs_for_log(request: Request, body: BaseModel) -> None:
    """With `log_inputs`, keep the body without its images for the request's log line."""
    if pipeline_of(request).settings.log_inputs:
        request_context(request.scope).inputs = body.model_dump(exclude=set(IMAGE_FIELDS), exclude_defaults=True)


async def _download_images(request: Request, body: RequestModel) -> RequestModel:
    fetcher: ImageFetcher | None = request.app.state.fetcher
    if fetcher is None:
        raise UrlRefused("this server does not download images (its setting `url_images` is off): send the image")
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


async def until_disconnected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled as soon as the client closes the connection."""
    task = asyncio.ensure_future(work)
    disconnected = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone("the client closed the connection")
        return task.result()
    finally:
        disconnected.cancel()
        task.cancel()
        await asyncio.wait({task, disconnected})


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _parse(request: Request, model: type[RequestModel], pipeline: Pipeline) -> RequestModel:
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if content_type.startswith("image/"):
            return model.model_validate(await _parse_raw(request))
        _refuse_query(request)
        if content_type == JSON:
            body = await request.body()
            return await pipeline.in_short(lambda: model.model_validate_json(body))
        if content_type == FORM:
            return model.model_validate(await _parse_form(request, model, pipeline.settings))
    except ValidationError as error:
        raise invalid_request(error) from None
    problem = f"content type {shown(content_type)} is not supported" if content_type else "there is no Content-Type"
    raise UnsupportedBody(f"{problem}: send {JSON}, {FORM} or {RAW}")


def _refuse_query(request: Request) -> None:
    fields = _Fields()
    for name in request.query_params:
        fields.refuse(name, f"fields go into the body, unless the body is an image ({RAW})")
    fields.values()


async def _parse_raw(request: Request) -> dict[str, Any]:
    """The body as the image, whatever its real format; the query's parameters as the other fields."""
    fields = _Fields()
    for name, value in request.query_params.multi_items():
        if name in IMAGE_FIELDS + URL_FIELDS:
            fields.refuse(name, "the body is the image")
        else:
            fields.add(name, value)
    return fields.values() | {"images": [await request.body()]}


async def _parse_form(request: Request, model: type[BaseModel], settings: Settings) -> dict[str, Any]:
    """The form's fields, images as bytes."""
    parser = _MemoryParser(
        request.headers,
        request.stream(),
        # One more of each than is accepted, so that the schema's error names the field.
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
    except (ValueError, KeyError) as error:  # the parser does not catch some malformed headers
        raise MalformedBody("the form cannot be read: its headers are malformed") from error
    if not parser.ended:
        await form.close()
        raise MalformedBody("the form ends before its closing boundary: is the body complete?")
    fields = _Fields()
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile) != (name in IMAGE_FIELDS):
                fields.refuse(name, f"this part must be {'a file' if name in IMAGE_FIELDS else 'text, not a file'}")
            else:
                fields.add(name, await value.read() if isinstance(value, UploadFile) else value)
    finally:
        await form.close()
    return fields.values()


def _quality(parameters: Sequence[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0 <= quality <= 1 else 0.0
    return 1.0
