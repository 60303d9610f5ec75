"""The share of a node that a replica has."""

import pytest

from server.cluster import resources
from server.cluster.resources import within
from server.settings import read_settings


def test_threads_follow_the_cpus_of_the_actor():
    assert within({"CPU": 2.0}, read_settings()).threads == 2
    assert within({"CPU": 2.5}, read_settings()).decode_threads == 3
    assert within({"CPU": 0.25}, read_settings()).threads == 1
    assert within({}, read_settings()).threads == 1


def test_memory_that_ray_counts_is_the_budget():
    assert within({"CPU": 1, "memory": 2.0**30}, read_settings()).memory_limit_bytes == 2**30
    assert within({"CPU": 1}, read_settings()).memory_limit_bytes == 0


def test_share_of_a_gpu_is_a_share_of_its_memory(monkeypatch):
    monkeypatch.setattr(resources, "gpu_bytes", lambda: 80 * 2**30)
    assert within({"GPU": 0.25}, read_settings()).gpu_memory_bytes == 20 * 2**30
    assert within({"GPU": 0.25}, read_settings()).device == "auto"
    assert within({"GPU": 1}, read_settings()).gpu_memory_bytes == 0


def test_replica_without_a_share_of_a_gpu_takes_none():
    assert within({"CPU": 1}, read_settings()).device == "cpu"
    assert within({"CPU": 1}, read_settings(device="cuda:0")).device == "cuda:0"


@pytest.mark.parametrize("name", ["threads", "decode_threads", "memory_limit_bytes", "gpu_memory_bytes"])
def test_setting_of_the_operator_stays(name, monkeypatch):
    monkeypatch.setattr(resources, "gpu_bytes", lambda: 80 * 2**30)
    given = within({"CPU": 4, "GPU": 0.5, "memory": 2**30}, read_settings(**{name: 7}))
    assert getattr(given, name) == 7
