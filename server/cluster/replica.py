"""A replica: one whole Openset, with its bundles, its queue and its limits, as a deployment of Ray Serve.

Serve places replicas, hands requests to them, scales and replaces them. It neither batches nor queues.
"""

import os
from typing import Any

import ray
from ray import serve
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from server.app import create_app
from server.cluster.deployment import DEPLOYMENT, replica_settings
from server.cluster.ingress import missing_variables
from server.cluster.resources import within
from server.cluster.targets import router
from server.memory.heap import limit_arenas
from server.registry.model_cache import with_models
from server.registry.model_registry import open_bundles
from server.settings import SettingsError, read_settings
from server.telemetry import logs

_LOOPBACK = ("127.0.0.1", "::1")  # of the ingress, which adds the client's address (`openset-haproxy`)


class _Replica:
    """The app with the settings of `openset serve`, within the actor's share of the node.

    It fails to start, and the deployment tells why, where its node's Ray has another ingress, where a setting is
    wrong, or where a bundle cannot be served. Once it is running its bundles are loaded, checked and warm.
    """

    def __init__(self, **given: Any) -> None:
        if missing := missing_variables(os.environ):
            raise SettingsError(
                f"Ray was started on this node without {', '.join(missing)}: `openset cluster env` prints what"
                " `ray start` needs"
            )
        settings = read_settings(**given)
        replica_settings(settings)  # refuses what cannot be one of a replica, also from the node's own environment
        own = within(ray.get_runtime_context().get_assigned_resources(), with_models(settings))
        self._settings = own.model_copy(update={"max_jobs": 0})  # another replica would not know them
        logs.configure(self._settings)
        limit_arenas()

    def __serve_build_asgi_app__(self) -> Any:
        app: Any = create_app(self._settings, open_bundles(self._settings), routers=[router])
        self._registry = app.state.registry
        return ProxyHeadersMiddleware(app, trusted_hosts=[*_LOOPBACK, *self._settings.trusted_proxies])

    def check_health(self) -> None:
        """Serve's liveness: a replica whose worker has died or hangs is replaced."""
        if dead := self._registry.dead():
            raise RuntimeError(f"the worker of {', '.join(dead)} has died or hangs")


Openset = serve.deployment(serve.ingress()(_Replica), name=DEPLOYMENT)


def app(args: dict[str, Any]) -> Any:
    """The Serve application with these settings; its import path and arguments stand in `openset cluster config`."""
    return Openset.bind(**args)
