"""The list of replicas for Prometheus."""

from types import SimpleNamespace

import pytest

pytest.importorskip("ray", reason="needs the extra `cluster`")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from server.cluster import targets

pytestmark = pytest.mark.ray


class Controller:
    """Serve's controller, with two replicas below /vision."""

    class get_target_groups:
        @staticmethod
        async def remote(*, from_proxy_manager):
            assert from_proxy_manager
            replicas = [SimpleNamespace(ip="10.0.0.1", port=30000 + n, name=f"openset#Openset#r{n}") for n in range(2)]
            return [SimpleNamespace(route_prefix="/vision", app_name="openset", targets=replicas)]


def test_each_replica_is_a_target_with_its_own_path(monkeypatch):
    monkeypatch.setattr("ray.serve.context._get_global_client", lambda: SimpleNamespace(_controller=Controller))
    app = FastAPI()
    app.include_router(targets.router)
    listed = TestClient(app).get(targets.TARGETS).json()
    assert [target["targets"] for target in listed] == [["10.0.0.1:30000"], ["10.0.0.1:30001"]]
    assert listed[0]["labels"] == {"__metrics_path__": "/vision/metrics", "application": "openset", "replica": "r0"}
