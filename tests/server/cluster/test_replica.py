"""A replica: the app with its share of a node."""

import pytest

pytest.importorskip("ray", reason="needs the extra `cluster`")

from server.cluster import replica
from server.cluster.deployment import APPLICATION, DEPLOYMENT
from server.cluster.ingress import node_variables
from server.settings import SettingsError

pytestmark = pytest.mark.ray


@pytest.fixture
def node(monkeypatch):
    """A node that was started as it has to be, with one CPU for the replica."""
    for name, value in node_variables().items():
        monkeypatch.setenv(name, value)
    context = type("Context", (), {"get_assigned_resources": lambda self: {"CPU": 1.0}})
    monkeypatch.setattr("ray.get_runtime_context", context)


def test_replica_has_threads_of_its_cpus(node):
    made = replica._Replica(max_queue=30)
    assert (made._settings.threads, made._settings.max_queue) == (1, 30)
    assert made._settings.max_jobs == 0, "jobs are one process's own"


def test_node_with_another_ingress_is_refused(node, monkeypatch):
    monkeypatch.delenv("RAY_SERVE_HAPROXY_RETRY_ON")
    with pytest.raises(SettingsError, match="without RAY_SERVE_HAPROXY_RETRY_ON: `openset cluster env` prints"):
        replica._Replica()


def test_bundles_of_one_replica_cannot_be_changed(node, monkeypatch, tmp_path):
    monkeypatch.setenv("OPENSET_BUNDLE_ROOTS", str(tmp_path))
    monkeypatch.setenv("OPENSET_API_KEYS_FILE", str(tmp_path / "keys.txt"))
    with pytest.raises(SettingsError, match="would reach one replica alone"):
        replica._Replica()


def test_application_has_the_name_that_its_file_gives_options_to():
    built = replica.app({"max_queue": 9})
    assert built._bound_deployment.name == DEPLOYMENT
    assert APPLICATION == "openset"
