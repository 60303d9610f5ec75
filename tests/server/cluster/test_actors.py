"""Actors: how many, of what size, and their exceptions; the cluster itself is in tests/cluster."""

import pytest

pytest.importorskip("ray", reason="needs the extra `cluster`")

import ray
from ray.exceptions import ActorDiedError, RayTaskError

from server.cluster import actors
from server.cluster.actors import ActorEnded
from server.cluster.cli import ClusterError
from server.settings import read_settings

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    ("there", "wanted", "planned"),
    [
        ({"CPU": 6.0}, None, (6, {"CPU": 1, "GPU": 0.0})),
        ({"CPU": 6.0}, 2, (2, {"CPU": 1, "GPU": 0.0})),
        ({"CPU": 64.0, "GPU": 4.0}, None, (4, {"CPU": 1, "GPU": 1.0})),
        ({"CPU": 64.0, "GPU": 2.0}, 6, (6, {"CPU": 1, "GPU": 0.3333})),
        ({}, None, (1, {"CPU": 1, "GPU": 0.0})),
    ],
)
def test_actors_fill_the_cluster_unless_told_otherwise(monkeypatch, there, wanted, planned):
    monkeypatch.setattr(ray, "cluster_resources", lambda: there)
    assert actors.plan(wanted) == planned


class Raising:
    """Ray, where each call ends with this error."""

    def __init__(self, monkeypatch, error):
        def get(_):
            raise error

        monkeypatch.setattr(ray, "remote", lambda kind: self)
        monkeypatch.setattr(ray, "get", get)

    def options(self, **options):
        self.given = options
        return self

    def remote(self, *given):
        return self

    @property
    def method(self):
        return self


def test_exception_of_a_method_is_its_own(monkeypatch):
    Raising(monkeypatch, RayTaskError("method", "traceback", KeyError("cause")))
    with pytest.raises(KeyError, match="cause"):
        actors.Actor(dict, resources={"CPU": 1, "GPU": 0}, parallel=1).call("method")


def test_lost_process_is_told_of_and_not_started_again_by_ray(monkeypatch):
    made = Raising(monkeypatch, ActorDiedError())
    with pytest.raises(ActorEnded, match=r"^ActorDiedError: "):
        actors.Actor(dict, resources={"CPU": 1, "GPU": 0.5}, parallel=3).call("method")
    assert (made.given["max_restarts"], made.given["max_task_retries"]) == (0, 0)
    assert (made.given["num_gpus"], made.given["max_concurrency"]) == (0.5, 3)


def test_actor_is_not_ended_where_the_cluster_was_left(monkeypatch):
    Raising(monkeypatch, ActorDiedError())
    killed = []
    monkeypatch.setattr(ray, "kill", killed.append)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    actors.Actor(dict, resources={"CPU": 1, "GPU": 0}, parallel=1).stop()
    assert killed == []


def test_settings_are_within_the_actors_share(monkeypatch):
    context = type("Context", (), {"get_assigned_resources": lambda self: {"CPU": 2.0}})
    monkeypatch.setattr(ray, "get_runtime_context", context)
    assert actors.within_actor(read_settings()).threads == 2


def test_address_without_a_cluster_is_told_in_one_line():
    with pytest.raises(ClusterError, match=r"^no Ray cluster can be joined at none://127\.0\.0\.1:1: [^\n]+$"):
        actors.connect("none://127.0.0.1:1")
