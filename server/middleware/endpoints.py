"""Endpoints by the route that answers: limits, deadlines, keys and metrics follow it, not the spelling of the path.

The router's own patterns end in "$", which a line break may follow (`/detect%0A`). Here a path matches as a whole, and
one that matches no route, or has a line break, is answered with 404 before the router sees it.
"""

from collections.abc import Iterable

from starlette.routing import compile_path
from starlette.types import Scope

from server.schemas import ADMIN_BUNDLES
from server.settings import OPEN_ENDPOINTS

PAGE_FILES = "/page/"
INFER, MODEL = "/v2/models/:name/infer", "/v2/models/:name"
SUBMIT, JOBS = "/jobs/:endpoint", "/jobs"
INFERENCE_ENDPOINTS = ("/detect", "/classify", "/similarity", "/embed", SUBMIT, INFER)
# Polled every few seconds by machines: not traced, and successes logged at debug level only.
POLLED_ENDPOINTS = ("/livez", "/readyz", "/metrics", "/v2/health/live", "/v2/health/ready")
OTHER = "other"  # no route
# Values of the metrics' label `endpoint`: never the client's own path.
ENDPOINTS = frozenset((*INFERENCE_ENDPOINTS, *OPEN_ENDPOINTS, MODEL, JOBS, ADMIN_BUNDLES, OTHER))


class Endpoints:
    """Endpoint names of requests, by the path templates of the app's routes, like `/v2/models/{name}/infer`."""

    def __init__(self, templates: Iterable[str]) -> None:
        self._patterns = [(compile_path(template)[0], endpoint_of(template)) for template in templates]

    def of(self, scope: Scope) -> str:
        """The endpoint that a request is for, whatever its method; OTHER where no route has its path."""
        path = local_path(scope)
        if "\n" in path:  # "/jobs/detect\n" would be one route by its parameter, and another for the router
            return OTHER
        return next((name for pattern, name in self._patterns if pattern.fullmatch(path)), OTHER)


def endpoint_of(template: str) -> str:
    """The name that a route's path template has in limits and metrics."""
    if template.startswith("/v2/models/"):
        return INFER if template.endswith("/infer") else MODEL
    if template.startswith(ADMIN_BUNDLES):
        return ADMIN_BUNDLES
    if template.startswith("/jobs/"):
        return JOBS if "{" in template else SUBMIT
    if template.startswith(("/models/", "/metrics/")):
        return "/" + template.split("/")[1]
    if template == "/redoc" or template.startswith("/docs/"):
        return "/docs"
    return "/" if template.startswith(PAGE_FILES) else template


def local_path(scope: Scope) -> str:
    """The path of a request below the one that the app is mounted at."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", ""))
    return below if below.startswith("/") else path
