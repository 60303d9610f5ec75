"""OpenAPI of endpoints that parse their bodies themselves: content types, examples, headers, problems."""

import copy
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from server.errors import KINDS, PROBLEM
from server.request_context import MAX_TIMEOUT_MS, PRIORITIES, PRIORITY, REQUEST_ID, TIMEOUT
from server.request_fields import EXAMPLE_IMAGE
from server.routes.body import FORM, IMAGE_FIELDS, JSON, RAW, URL_FIELDS
from server.schemas import Problem

_STATUSES = (400, 401, 404, 406, 408, 413, 415, 422, 424, 429, 500, 503, 504)
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
        "schema": {"type": "string", "enum": list(PRIORITIES), "default": PRIORITIES[0]},
    },
    {
        "name": REQUEST_ID,
        "in": "header",
        "description": "Returned with the response and logged; generated if it is missing.",
        "schema": {"type": "string", "maxLength": 128},
    },
]


def request_body(model: type[BaseModel], example: dict[str, Any]) -> dict[str, Any]:
    """The `requestBody` and `parameters` of an operation: the model as JSON, as a form, and as query plus image.

    `example` has all but the image.
    """
    schema = _flat_schema(model)
    form = copy.deepcopy(schema)
    file = {"type": "string", "contentMediaType": "image/*", "format": "binary"}
    form["properties"].pop("images")
    form["properties"]["image_url"] = form["properties"].pop("image_urls")
    form["properties"]["image"] = {
        "type": "array",
        "items": file,
        "minItems": 1,
        "description": "An image file; repeat the part for several.",
    }
    for name, value in form["properties"].items():
        if value.get("type") == "array" and name != "image":
            value["description"] = f"{value.get('description', '')} Repeat the part for several.".strip()
    return {
        "parameters": [*_query(schema), *_HEADERS],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {"schema": schema, "example": {"image": EXAMPLE_IMAGE} | example},
                FORM: {"schema": form},
                RAW: {"schema": {"type": "string", "format": "binary"}},
            },
        },
    }


def object_body(model: type[BaseModel], *, header: str, binary: str) -> dict[str, Any]:
    """The `requestBody` and `parameters` of an operation: the model as JSON, which binary tensors may follow."""
    length = {
        "name": header,
        "in": "header",
        "description": "Length of the JSON in bytes, if binary tensors follow it.",
        "schema": {"type": "integer", "minimum": 0},
    }
    schema = model.model_json_schema(schema_generator=GenerateJsonSchema)
    _inline(schema, schema.pop("$defs", {}))
    content = {JSON: {"schema": schema}, binary: {"schema": {"type": "string", "format": "binary"}}}
    return {"parameters": [length, *_HEADERS], "requestBody": {"required": True, "content": content}}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """The `requestBody` of an operation that takes the model as JSON only."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": _flat_schema(model)}}}}


def _inline(node: Any, definitions: dict[str, Any]) -> None:
    """Replace references by their definitions, in place."""
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        if isinstance(child, dict) and "$ref" in child:
            child |= copy.deepcopy(definitions[child.pop("$ref").rpartition("/")[2]])
        _inline(child, definitions)


def _query(schema: dict[str, Any]) -> list[dict[str, Any]]:
    fields = {name: field for name, field in schema["properties"].items() if name not in IMAGE_FIELDS + URL_FIELDS}
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": f"Only with an {RAW} body; otherwise the field goes into the body.",
            "schema": {key: value for key, value in field.items() if key not in ("description", "examples")},
        }
        for name, field in fields.items()
    ]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of an operation; without `statuses`, those of an inference endpoint."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in statuses or _STATUSES:
        kinds = sorted({kind.slug for kind in KINDS.values() if kind.status == status})
        responses[status] = {"model": Problem, "description": f"Problem: {', '.join(kinds)}"}
    return responses


def with_problem_type(document: dict[str, Any]) -> dict[str, Any]:
    """`document` with the media type of problems, where the framework has put JSON."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if status >= "400" and JSON in response.get("content", {}):
                    response["content"] = {PROBLEM: response["content"][JSON]}
    return document


def with_keys(document: dict[str, Any], *, open_endpoints: Sequence[str]) -> dict[str, Any]:
    """`document` with the two ways to send an API key, required by all but `open_endpoints`."""
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["security"] = [] if path in open_endpoints else [{"bearer": []}, {"header": []}]
    return document


def _flat_schema(model: type[BaseModel]) -> dict[str, Any]:
    schema = model.model_json_schema(schema_generator=GenerateJsonSchema)
    assert "$defs" not in schema, "a hand-written requestBody cannot refer to the components"
    return schema
