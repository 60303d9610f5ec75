"""The file that deploys replicas, in Ray Serve's format: for `serve deploy`, KubeRay, and `openset cluster up`."""

from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from server.cluster.ingress import DRAIN_S
from server.settings import Settings, SettingsError

APPLICATION, DEPLOYMENT = "openset", "Openset"
IMPORT_PATH = "server.cluster.replica:app"
HEALTH_CHECK_S = 2
# Times `max_inflight_requests` may be at a replica: room for the refusals and the probes that it answers.
_ROOM = 2
_SURGE_PERCENT = 25


@dataclass(frozen=True)
class Replicas:
    """Number of replicas, up to `most` as load asks for them, and what each takes of a node; `memory` in bytes.

    surge: at an update, new replicas start before old ones stop, which takes room for a quarter more, at least one.
    """

    least: int = 1
    most: int = 1
    _: KW_ONLY
    cpus: float = 1
    gpus: float = 0
    memory: int = 0
    surge: bool = True
    route_prefix: str = "/"


def serve_config(settings: Settings, replicas: Replicas) -> dict[str, Any]:
    """The document of Serve's schema; SettingsError where a setting cannot be one of replicas."""
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": settings.host, "port": settings.port},
        "applications": [
            {
                "name": APPLICATION,
                "route_prefix": replicas.route_prefix,
                "import_path": IMPORT_PATH,
                "args": replica_settings(settings),
                "deployments": [{"name": DEPLOYMENT, **deployment_options(settings, replicas)}],
            }
        ],
    }


def replica_settings(settings: Settings) -> dict[str, Any]:
    """The settings that were given, for a replica on any node: paths are absolute, and the address is the ingress's."""
    if settings.bundle_roots:
        raise SettingsError(
            "bundle_roots: a change of bundles would reach one replica alone; deploy again with other bundles, and the"
            " replicas are replaced one by one"
        )
    given = settings.model_dump(mode="json", exclude_unset=True, exclude={"host", "port", "bundle_roots"})
    for name, value in settings:
        if name in given and isinstance(value, Path):
            given[name] = str(value.absolute())
    if "bundle" in given:
        given["bundle"] = [str(path.absolute()) for path in settings.bundle]
    return given


def deployment_options(settings: Settings, replicas: Replicas) -> dict[str, Any]:
    """Serve's options: the replica's own queue and limits refuse, so that Serve has to keep nothing back.

    Load is the number of requests in progress: a replica with one batch that runs and half a batch that waits is used
    well. The length of the queue would swing, since a queue is empty whenever it was served.
    """
    options: dict[str, Any] = {
        "max_ongoing_requests": _ROOM * settings.max_inflight_requests,
        "health_check_period_s": HEALTH_CHECK_S,
        "graceful_shutdown_timeout_s": DRAIN_S + settings.shutdown_timeout_s,
        "max_surge_percent": _SURGE_PERCENT if replicas.surge else 0,
        "ray_actor_options": {"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
    }
    if replicas.memory:
        options["ray_actor_options"]["memory"] = replicas.memory
    if replicas.most > replicas.least:
        options["autoscaling_config"] = {
            "min_replicas": replicas.least,
            "max_replicas": replicas.most,
            "target_ongoing_requests": 1.5 * settings.max_batch,
        }
    else:
        options["num_replicas"] = replicas.least
    return options
