"""GET /openapi.json, and its pages: /docs (Swagger UI, which sends requests) and /redoc, from files of a package."""

import html
import json
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.responses import FileResponse, HTMLResponse
from starlette.routing import BaseRoute, Route

from server.routes.documents import documents_of

router = APIRouter(include_in_schema=False)
DOCS_FILES = "/docs/"
_PACKAGE = "fastapi_offline"  # found without importing it: only its files are used
_OWN = Path(__file__).parents[1] / "page"
_FILES = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
    "redoc.standalone.js": "text/javascript",
}
_OWN_FILES = {"swagger.js": "text/javascript", "redoc.js": "text/javascript"}
# Both pages set styles from scripts, and ReDoc searches in a worker; scripts come from this server alone.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:;"
        " font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none';"
        " frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


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
    """Show the endpoints in Swagger UI, which sends requests to them."""
    return _page(request, scripts=("swagger-ui-bundle.js", "swagger.js"), styles=("swagger-ui.css",))


@router.get("/redoc")
async def redoc(request: Request) -> Response:
    """Show the endpoints in ReDoc, to read and to search."""
    return _page(request, scripts=("redoc.standalone.js", "redoc.js"))


def routes() -> list[BaseRoute]:
    """Routes of the pages' scripts and styles."""

    def route(name: str, media_type: str, folder: Path) -> Route:
        async def file(_: Request) -> Response:
            return FileResponse(folder / name, media_type=media_type, headers=_HEADERS)

        return Route(DOCS_FILES + name, file)

    kept = _kept_files()
    return [
        *(route(name, media_type, kept) for name, media_type in _FILES.items() if kept),
        *(route(name, media_type, _OWN) for name, media_type in _OWN_FILES.items()),
    ]


def _kept_files() -> Path | None:
    """The folder of the package's files; None where it was removed, and the pages stay empty."""
    spec = find_spec(_PACKAGE)
    return Path(spec.origin).parent / "static" if spec and spec.origin else None


def _page(request: Request, *, scripts: tuple[str, ...], styles: tuple[str, ...] = ()) -> Response:
    root = html.escape(request.scope.get("root_path", "").rstrip("/"))
    links = "".join(f"<link rel='stylesheet' href='{root}{DOCS_FILES}{name}'>" for name in styles)
    tags = "".join(f"<script src='{root}{DOCS_FILES}{name}'></script>" for name in scripts)
    return HTMLResponse(
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{html.escape(request.app.title)}: API</title>"
        f"<meta name='viewport' content='width=device-width'>{links}</head>"
        f"<body><div id='api' data-openapi='{root}/openapi.json'></div>{tags}</body></html>",
        headers=_HEADERS,
    )
