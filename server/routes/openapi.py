"""OpenAPI of endpoints that parse their bodies themselves: named schemas, headers, and the problems that they send."""

import copy
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from server.contract.text import PromptError, PromptTooLong
from server.errors import (
    KINDS,
    PROBLEM,
    BodyTimeout,
    BodyTooLarge,
    BrokenImage,
    DeadlinePassed,
    ImageTooLarge,
    InferenceFailed,
    InvalidRequest,
    MalformedBody,
    MalformedRequest,
    MemoryExhausted,
    NotAcceptable,
    NotReady,
    QueueFull,
    TooManyRequests,
    Unauthorized,
    UnknownModel,
    UnsuitableModel,
    UnsupportedBody,
    UnsupportedImage,
    UrlFailed,
    UrlRefused,
    WorkerStopped,
)
from server.middleware.endpoints import endpoint_of
from server.request_context import MAX_TIMEOUT_MS, PRIORITIES, PRIORITY, REQUEST_ID, TIMEOUT
from server.request_fields import EXAMPLE_IMAGE
from server.routes.body import FORM, JSON
from server.schemas import Problem

_COMPONENT = "#/components/schemas/{model}"
_REFERENCE = re.compile(re.escape(_COMPONENT).replace(re.escape("{model}"), r"(\w+)"))
# Problems of every endpoint that reads a body and runs a model.
BODY_FAULTS = (
    *(MalformedBody, BodyTimeout, BodyTooLarge, UnsupportedBody, InvalidRequest, TooManyRequests, MemoryExhausted),
    *(NotReady, DeadlinePassed),
)
RUN_FAULTS = (
    *(UnknownModel, UnsuitableModel, ImageTooLarge, UnsupportedImage, BrokenImage, PromptError, PromptTooLong),
    *(QueueFull, InferenceFailed, WorkerStopped),
)
VISION_FAULTS = (*BODY_FAULTS, *RUN_FAULTS, NotAcceptable, UrlRefused, UrlFailed)
_HEADERS = [
    {
        "name": TIMEOUT,
        "in": "header",
        "description": "Time limit of the request in milliseconds; after it the work is dropped and the status is 504.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TIMEOUT_MS},
    },
    {
        "name": PRIORITY,
        "in": "header",
        "description": "Interactive requests are run first; batch requests wait, but never forever.",
        "schema": {"type": "string", "enum": list(PRIORITIES)},
    },
    {
        "name": REQUEST_ID,
        "in": "header",
        "description": "Returned with the response and logged; generated if it is missing.",
        "schema": {"type": "string", "maxLength": 128},
    },
]
# Schemas of bodies by name, which operations refer to.
_SCHEMAS: dict[str, dict[str, Any]] = {}


def request_body(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """The `requestBody` and `parameters` of an operation: the model as JSON, and as a form.

    `example` has all but the image. One image as the body, with the other fields in the query, is told in words: a
    generated client would send the fields of the query with every body.
    """
    form = _form_of(_registered(model))
    name = model.__name__.removesuffix("Request") + "Form"
    _SCHEMAS[name] = form | {"title": name}
    body = {
        JSON: {"schema": _reference(model.__name__), "example": {"image": EXAMPLE_IMAGE} | example},
        FORM: {"schema": _reference(name)},
    }
    return {"parameters": _HEADERS, "requestBody": {"required": True, "content": body}}


def object_body(model: type[BaseModel]) -> dict[str, Any]:
    """The `requestBody` and `parameters` of an operation that runs the model of a JSON object."""
    return {"parameters": _HEADERS, **json_body(model)}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """The `requestBody` of an operation that takes the model as JSON only."""
    _registered(model)
    return {"requestBody": {"required": True, "content": {JSON: {"schema": _reference(model.__name__)}}}}


def problems(*faults: type[Exception]) -> dict[int | str, dict[str, Any]]:
    """The error responses of an operation that may send these `faults`."""
    by_status: dict[int, set[str]] = {}
    for fault in faults:
        by_status.setdefault(KINDS[fault].status, set()).add(KINDS[fault].slug)
    return {
        status: {"model": Problem, "description": f"Problem: {', '.join(sorted(slugs))}"}
        for status, slugs in sorted(by_status.items())
    }


def completed(
    document: dict[str, Any], *, keys: bool, open_endpoints: Sequence[str], url_images: bool
) -> dict[str, Any]:
    """The framework's `document` with the schemas of bodies, and with the security and problems of this server."""
    document["servers"] = [{"url": "/"}]
    document["security"] = []
    if keys:
        document["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
    for path, operation in _operations(document):
        needs_key = keys and endpoint_of(path) not in open_endpoints
        if needs_key:
            operation["security"] = [{"bearer": []}, {"header": []}]
        operation["responses"] = _responses(operation["responses"], needs_key=needs_key, url_images=url_images)
    schemas = document["components"]["schemas"] | copy.deepcopy(_SCHEMAS)
    used = _used(document["paths"], schemas)
    document["components"]["schemas"] = {name: schemas[name] for name in sorted(used)}
    for name in used:
        _without_defaults(schemas[name], of_body=name in _SCHEMAS)
    return document


def _responses(responses: Mapping[str, Any], *, needs_key: bool, url_images: bool) -> dict[str, Any]:
    """Responses as they are sent: each with problems of what this server can refuse."""
    by_status = {status: each for status, each in responses.items() if not _is_frameworks(each)}
    if not url_images:
        by_status.pop(str(KINDS[UrlFailed].status), None)
    for fault in [MalformedRequest, *([Unauthorized] if needs_key else [])]:
        kind = KINDS[fault]
        response = by_status.setdefault(str(kind.status), {"description": "Problem: "})
        listed = [kind.slug, *filter(None, response["description"].removeprefix("Problem: ").split(", "))]
        response |= {"description": f"Problem: {', '.join(sorted(listed))}", "content": _problem_content()}
    for status, response in by_status.items():
        if status >= "400":
            response["content"] = _problem_content()
    return dict(sorted(by_status.items()))


def _problem_content() -> dict[str, Any]:
    return {PROBLEM: {"schema": _reference(Problem.__name__)}}


def _is_frameworks(response: Mapping[str, Any]) -> bool:
    schema = response.get("content", {}).get(JSON, {}).get("schema", {})
    return str(schema.get("$ref", "")).endswith("/HTTPValidationError")


def _operations(document: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in document["paths"].items():
        for operation in operations.values():
            yield path, operation


def _used(node: Any, schemas: Mapping[str, Any]) -> set[str]:
    """Names of the schemas that a part of the document refers to, and of those that they refer to."""
    used: set[str] = set()
    found = [node]
    while found:
        names = set(_REFERENCE.findall(json.dumps(found.pop()))) - used
        used |= names
        found += [schemas[name] for name in names]
    return used


def _reference(name: str) -> dict[str, str]:
    return {"$ref": _COMPONENT.format(model=name)}


def _registered(model: type[BaseModel]) -> dict[str, Any]:
    """The schema of a body, which the document has under the model's name."""
    schema = model.model_json_schema(schema_generator=GenerateJsonSchema, ref_template=_COMPONENT)
    _SCHEMAS.update(schema.pop("$defs", {}))
    _SCHEMAS[model.__name__] = schema
    return schema


def _form_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    form = copy.deepcopy(dict(schema))
    form["properties"].pop("images")
    urls = form["properties"].pop("image_urls")
    form["properties"]["image_url"] = urls | {"title": "Image Url"}
    form["properties"]["image"] = {
        "type": "array",
        "items": {"type": "string", "contentMediaType": "image/*", "format": "binary"},
        "minItems": 1,
        "title": "Image",
        "description": "An image file; repeat the part for several.",
    }
    for name, value in form["properties"].items():
        if value.get("type") == "array" and name != "image":
            value["description"] = f"{value.get('description', '')} Repeat the part for several.".strip()
    return form


def _without_defaults(schema: dict[str, Any], *, of_body: bool) -> None:
    """Drop defaults that only say that a field may be left out; tell those of a body in its description.

    Generators of clients make values of the former, and of the latter fields that must be given.
    """
    for field in schema.get("properties", {}).values():
        default = field.get("default")
        if default in (None, [], {}):
            field.pop("default", None)
        elif of_body:
            del field["default"]
            field["description"] = f"{field.get('description', '')} Default: {json.dumps(default)}.".strip()
