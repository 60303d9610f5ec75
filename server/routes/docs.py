"""GET /openapi.json and /docs: the OpenAPI document, and as one HTML page without scripts or external resources."""

import html
import json
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response

from server.routes.documents import documents_of

router = APIRouter(include_in_schema=False)

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --accent: #0a7d5a }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h2 { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: 1.5rem }
h2 b { color: var(--accent); margin-right: .5rem }
pre, code { font: 14px/1.45 ui-monospace, monospace; background: var(--soft); border-radius: 4px }
pre { padding: .75rem; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere }
code { padding: .1rem .3rem }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto }
th, td { text-align: left; vertical-align: top; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line) }
"""


@router.get("/openapi.json")
async def openapi(request: Request) -> Response:
    """The OpenAPI document, which names the path that the app is mounted at."""
    root = request.scope.get("root_path", "").rstrip("/")

    def encode() -> bytes:
        servers = {"servers": [{"url": root}]} if root else {}
        return json.dumps(request.app.openapi() | servers, ensure_ascii=False, separators=(",", ":")).encode()

    document = await documents_of(request).get("openapi", root, encode, media_type="application/json")
    return document.response(request)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """Render the endpoints with their fields, examples and problems."""
    app = request.app
    page = await documents_of(request).get("docs", None, lambda: render(app.openapi()).encode(), media_type="text/html")
    return page.response(request)


def render(document: dict[str, Any]) -> str:
    """An OpenAPI `document` as HTML."""
    info = document["info"]
    body = [f"<h1>{_text(info['title'])}</h1><p>{_text(info['summary'])} <a href='openapi.json'>openapi.json</a></p>"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            body.extend(_operation(method, path, operation, document["components"]["schemas"]))
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><title>{_text(info['title'])}</title>"
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head>"
        f"<body>{''.join(body)}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    yield f"<h2 id='{path.strip('/')}'><b>{method.upper()}</b>{_text(path)}</h2><p>{_text(operation['summary'])}</p>"
    yield _paragraphs(operation.get("description", ""))
    for content_type, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<h3>Body: <code>{content_type}</code></h3>{_fields(content['schema'])}"
        if "example" in content:
            yield f"<pre>{_text(json.dumps(content['example'], indent=1))}</pre>"
    if headers := [each for each in operation.get("parameters", ()) if each["in"] == "header"]:
        yield f"<h3>Headers</h3>{_fields({'properties': {each['name']: _header_schema(each) for each in headers}})}"
    yield "<h3>Responses</h3><table>"
    for status, response in operation["responses"].items():
        for content_type, content in (response.get("content") or {"": {}}).items():
            name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
            fields = _fields(schemas[name], schemas) if status == "200" and name else ""
            yield f"<tr><th>{status}</th><td><code>{content_type}</code></td>"
            yield f"<td>{_text(response['description'])}{fields}</td></tr>"
    yield "</table>"


def _header_schema(parameter: dict[str, Any]) -> dict[str, Any]:
    return {**parameter["schema"], "description": parameter["description"]}


def _fields(schema: dict[str, Any], schemas: dict[str, Any] | None = None) -> str:
    required = schema.get("required", [])
    rows = []
    for name, field in schema.get("properties", {}).items():
        default = "required" if name in required else json.dumps(field["default"]) if field.get("default") else ""
        nested = schemas.get(_reference(field), {}) if schemas else {}
        rows.append(
            f"<tr><th><code>{_text(name)}</code></th><td>{_text(_type(field))}</td><td>{_text(default)}</td>"
            f"<td>{_text(field.get('description', ''))}{_fields(nested, schemas) if nested else ''}</td></tr>"
        )
    return f"<table>{''.join(rows)}</table>" if rows else ""


def _reference(field: dict[str, Any]) -> str:
    """The name of the schema that a field or its items refer to."""
    options = [field, field.get("items", {}), *field.get("anyOf", [])]
    return next((option["$ref"].rpartition("/")[2] for option in options if "$ref" in option), "")


def _type(field: dict[str, Any]) -> str:
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"] if option.get("type") != "null")
    if "enum" in field:
        return " or ".join(map(str, field["enum"]))
    if field.get("type") == "array":
        return f"list of {_type(field['items'])}" if "items" in field else "list"
    kind = field.get("format") or field.get("contentEncoding") or field.get("type") or _reference(field)
    bounds = [f"{sign} {field[key]:g}" for key, sign in (("minimum", "≥"), ("maximum", "≤")) if key in field]
    return " ".join([kind, *bounds])


def _paragraphs(text: str) -> str:
    """Paragraphs as HTML; indented ones are commands and stay as they are."""
    parts = []
    for paragraph in text.split("\n\n"):
        if paragraph.startswith("    "):
            lines = "\n".join(line.removeprefix("    ") for line in paragraph.splitlines())
            parts.append(f"<pre>{_text(lines)}</pre>")
        elif paragraph.strip():
            parts.append(f"<p>{_text(paragraph)}</p>")
    return "".join(parts)


def _text(value: str) -> str:
    return html.escape(value)
