"""Requests out of bodies: JSON with base64 images, a multipart form, or one image; and content negotiation."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from server.contract.field_names import no_such_field
from server.contract.text import shown
from server.errors import (
    ClientGone,
    FieldFault,
    InvalidRequest,
    MalformedBody,
    NotAcceptable,
    UnsupportedBody,
    invalid_request,
)
from server.json_text import JsonText, read_json
from server.middleware.image_fetcher import with_images
from server.request_context import request_context
from server.request_fields import RepeatedField
from server.requests import ClassifyRequest, DetectRequest, EmbedRequest, SimilarityRequest
from server.routes.form import Part, parse_form
from server.routes.payload import charset_of, check_encoding, codec_of, content_type_of, inflate, receive_body
from server.routes.services import pipeline_of
from server.settings import Settings

Model = TypeVar("Model", bound=BaseModel)
RequestModel = TypeVar("RequestModel", DetectRequest, ClassifyRequest, SimilarityRequest, EmbedRequest)
T = TypeVar("T")

JSON, FORM, RAW = "application/json", "multipart/form-data", "image/*"
IMAGE_FIELDS, URL_FIELDS = ("image", "images"), ("image_url", "image_urls")
# A form's own word for the charset of its texts (RFC 7578, 4.6).
CHARSET_FIELD = "_charset_"
# Fields that a form or a query repeats.
_TEXT_LISTS = {"image_urls", "label_thresholds", "labels", "texts", "templates"}
_LISTS = {"images", *_TEXT_LISTS}
_PLURALS = {"image": "images", "image_url": "image_urls"}
_GZIP = b"\x1f\x8b\x08"  # its magic number and method: no JSON, form or image begins so
# Faults that are told.
_MAX_FAULTS = 20


class _Fields:
    """Fields of a form or a query, collected into lists where they may repeat; errors are collected too."""

    def __init__(self, model: type[BaseModel]) -> None:
        self._known = model.model_fields
        self._values: dict[str, Any] = {}
        self._faults: list[FieldFault] = []

    def add(self, name: str, content: str | bytes) -> None:
        """Add one field; `image` is one of `images`, `image_url` of `image_urls`."""
        field = _PLURALS.get(name, name)
        if field not in self._known:
            self.refuse(name, no_such_field(name, self._known))
        elif field in _LISTS:
            self._values.setdefault(field, []).append(content)
        elif field in self._values:
            self.refuse(name, "this field may be given only once")
        else:
            self._values[field] = content

    def add_part(self, part: Part, charset: str) -> None:
        """Add a part of a form."""
        is_image = part.name in IMAGE_FIELDS
        if part.name in self._known and part.is_file != is_image:
            self.refuse(part.name, f"this part must be {'a file' if is_image else 'text, not a file'}")
        else:
            self.add(part.name, bytes(part.content) if part.is_file else part.text(charset))

    def refuse(self, name: str, reason: str) -> None:
        """Add an error; InvalidRequest at the last that is told."""
        self._faults.append(FieldFault(shown(name).strip("'"), reason))
        if len(self._faults) == _MAX_FAULTS:
            raise InvalidRequest(self._faults)

    def values(self) -> dict[str, Any]:
        """All fields; InvalidRequest if there were errors."""
        if self._faults:
            raise InvalidRequest(self._faults)
        texts = {name: RepeatedField(self._values[name]) for name in _TEXT_LISTS & self._values.keys()}
        return self._values | texts


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
    body = await parsed_body(request, model)
    if not body.urls:
        return body
    context = request_context(request.scope)
    return await until_disconnected(
        request, with_images(body, request.app.state.fetcher, pipeline_of(request), context)
    )


async def parsed_body(request: Request, model: type[RequestModel]) -> RequestModel:
    """The request's body as `model`; a RequestFault if it is wrong."""
    media_type, options = content_type_of(request)
    if not media_type.startswith("image/"):
        if media_type not in (JSON, FORM):
            raise _unsupported(media_type, JSON, FORM, RAW)
        _refuse_query(request, model)
    encoding, charset = check_encoding(request), charset_of(options)
    body, settings = await receive_body(request), pipeline_of(request).settings

    def parse(content: bytearray) -> RequestModel:
        if media_type == JSON:
            return validated(model, lambda: _json_text(content, charset, settings).parse(model))
        fields = _Fields(model)
        if media_type == FORM:
            parts = parse_form(content, options, charset=charset, max_parts=max_values(settings))
            texts = next((codec_of(bytes(part.content)) for part in parts if part.name == CHARSET_FIELD), charset)
            for part in parts:
                if part.name != CHARSET_FIELD:
                    fields.add_part(part, texts)
            values = fields.values()
        else:  # the body is the image, whatever its real format
            for name, value in request.query_params.multi_items():
                if name in IMAGE_FIELDS + URL_FIELDS:
                    fields.refuse(name, "the body is the image")
                else:
                    fields.add(name, value)
            values = fields.values() | {"images": [bytes(content)]}
        return validated(model, lambda: model.model_validate(values))

    read = await unpacked(request, body, encoding, parse)
    request_context(request.scope).hold(read.picture_bytes)
    keep_inputs_for_log(request, read)
    return read


async def read_object(request: Request, model: type[Model]) -> Model:
    """A body that must be JSON, as `model`; a RequestFault if it is wrong."""
    media_type, options = content_type_of(request)
    if media_type != JSON:
        raise _unsupported(media_type, JSON)
    encoding, charset = check_encoding(request), charset_of(options)
    body, settings = await receive_body(request), pipeline_of(request).settings

    def parse(content: bytearray) -> Model:
        return validated(model, lambda: _json_text(content, charset, settings).parse(model))

    return await unpacked(request, body, encoding, parse)


async def unpacked(request: Request, body: bytearray, encoding: str, parse: Callable[[bytearray], T]) -> T:
    """The result of `parse` for the body without its content encoding, in a thread, when it is the client's turn."""
    pipeline, context = pipeline_of(request), request_context(request.scope)
    limit = pipeline.settings.max_body_bytes
    if not encoding and body.startswith(_GZIP):
        raise MalformedBody("the body is packed by gzip: send it with Content-Encoding: gzip")
    if encoding:
        context.hold(len(body) + limit)
    return await pipeline.in_turn(lambda: parse(inflate(body, encoding, limit=limit) if encoding else body), context)


def max_values(settings: Settings) -> int:
    """Values of JSON, or parts of a form, that a request may have: some more than the limits, which are named then."""
    return 2 * (settings.max_labels + settings.max_images) + 500


def validated(model: type[BaseModel], parse: Callable[[], T]) -> T:
    """The result of `parse`; a RequestFault where it does not fit `model`."""
    try:
        return parse()
    except ValidationError as error:
        raise invalid_request(error, fields=model.model_fields) from None


async def rendered(request: Request, answer: BaseModel) -> bytes:
    """An answer as JSON, made off the event loop."""
    return await pipeline_of(request).in_short(lambda: answer.model_dump_json(exclude_none=True).encode())


def respond(request: Request, content: bytes, media_type: str, headers: Mapping[str, str] | None = None) -> Response:
    """The response of `content`, which the request holds until it is sent; MemoryExhausted if there is no room."""
    context = request_context(request.scope)
    # A job's answer may be larger than all of that memory.
    context.hold(min(context.held_bytes + len(content), pipeline_of(request).settings.body_bytes))
    return Response(content, media_type=media_type, headers=headers)


def keep_inputs_for_log(request: Request, body: BaseModel) -> None:
    """With `log_inputs`, keep the body without its images for the request's log line."""
    if pipeline_of(request).settings.log_inputs:
        request_context(request.scope).inputs = body.model_dump(exclude=set(IMAGE_FIELDS), exclude_defaults=True)


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


def _json_text(content: bytearray, charset: str, settings: Settings) -> JsonText:
    if charset != "utf-8":
        content = bytearray(content.decode(charset).encode())
    return read_json(content, max_values=max_values(settings))


def _unsupported(media_type: str, *supported: str) -> UnsupportedBody:
    problem = f"content type {shown(media_type)} is not supported" if media_type else "there is no Content-Type"
    return UnsupportedBody(
        f"{problem}: send {', '.join(supported[:-1])}{' or ' if supported[1:] else ''}{supported[-1]}"
    )


def _refuse_query(request: Request, model: type[BaseModel]) -> None:
    fields = _Fields(model)
    for name in request.query_params:
        known = name in model.model_fields
        reason = f"fields go into the body, unless the body is an image ({RAW})"
        fields.refuse(name, reason if known else no_such_field(name, model.model_fields))
    fields.values()


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
