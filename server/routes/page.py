"""The web page at `/`: static files of the package, without a build step.

The page asks the API for everything about the server, with the visitor's key; its files are the same for everyone.
"""

from pathlib import Path

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from server.middleware.endpoints import PAGE_FILES

_PACKAGE = Path(__file__).parents[1]
_HEADERS = {
    # Scripts and styles only from files, and no text becomes markup: labels are user input.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    # The camera is asked for by the page itself, once a visitor wants to take a picture.
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # revalidated each time; unchanged files are answered with 304
    "Accept-Ranges": "none",
}


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        return response


async def _page(request: Request) -> Response:
    return FileResponse(_PACKAGE / "page/index.html", headers=_HEADERS)


def routes() -> list[BaseRoute]:
    """Routes of the page, its scripts and styles, and its example images."""
    return [
        Route("/", _page),
        Mount(PAGE_FILES + "examples", _Files(directory=_PACKAGE / "examples")),
        Mount(PAGE_FILES.rstrip("/"), _Files(directory=_PACKAGE / "page")),
    ]
