"""The replicas' own addresses, as Prometheus discovers them: the ingress would hand a scrape to one of them."""

from typing import Any

from fastapi import APIRouter
from ray.serve import context

from server.errors import Unauthorized
from server.routes.openapi import problems

TARGETS = "/metrics/targets"
router = APIRouter(tags=["system"])


@router.get(TARGETS, summary="Addresses of all replicas, for Prometheus", responses=problems(Unauthorized))
async def metrics_targets() -> list[dict[str, Any]]:
    """Lists the replicas that are running, in the format of `http_sd_configs`; each answers `/metrics` itself.

    It needs a key where `/metrics` needs one.
    """
    controller = context._get_global_client()._controller
    groups = await controller.get_target_groups.remote(from_proxy_manager=True)
    return [
        {
            "targets": [f"{target.ip}:{target.port}"],
            "labels": {
                "__metrics_path__": f"{group.route_prefix.rstrip('/')}/metrics",
                "application": group.app_name,
                "replica": target.name.rpartition("#")[2],
            },
        }
        for group in groups
        for target in group.targets
    ]
