"""The file that deploys replicas."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.cluster.deployment import Replicas, serve_config
from server.settings import SettingsError, read_settings


def deployed(replicas=None, **settings):
    """The application and its only deployment."""
    application = serve_config(read_settings(**settings), replicas or Replicas())["applications"][0]
    (options,) = application["deployments"]
    return application, options


def test_ingress_has_the_address_and_the_replicas_have_the_other_settings():
    config = serve_config(read_settings(host="0.0.0.0", port=81, max_queue=30), Replicas(route_prefix="/vision"))
    assert config["http_options"] == {"host": "0.0.0.0", "port": 81}
    assert config["applications"][0]["args"] == {"max_queue": 30}
    assert config["applications"][0]["route_prefix"] == "/vision"


def test_paths_hold_in_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    keys = tmp_path / "keys.txt"
    application, _ = deployed(bundle=["clip", "/bundles/dino"], api_keys_file="keys.txt", cache_dir="cache")
    assert application["args"] == {
        "bundle": [str(tmp_path / "clip"), "/bundles/dino"],
        "api_keys_file": str(keys),
        "cache_dir": str(tmp_path / "cache"),
    }


def test_settings_that_were_not_given_are_left_to_the_node(monkeypatch):
    monkeypatch.setenv("OPENSET_MAX_BATCH", "3")
    assert deployed()[0]["args"] == {"max_batch": 3}


@given(
    queue=st.integers(16, 500),
    wait=st.floats(0, 1000),
    page=st.booleans(),
    origins=st.sampled_from(["*", "https://a.b"]),
)
def test_replica_reads_back_the_settings_that_were_given(queue, wait, page, origins):
    settings = read_settings(max_queue=queue, max_wait_ms=wait, page=page, cors_origins=origins)
    config = json.loads(json.dumps(serve_config(settings, Replicas())))
    assert read_settings(**config["applications"][0]["args"]) == settings


def test_bundles_of_one_replica_alone_cannot_be_changed(tmp_path):
    with pytest.raises(SettingsError, match="bundle_roots: a change of bundles would reach one replica alone"):
        deployed(bundle_roots=[tmp_path], api_keys_file=tmp_path / "keys.txt")


def test_replicas_refuse_by_their_own_limits_and_answer_probes_meanwhile():
    _, options = deployed(max_inflight_requests=40)
    assert options["max_ongoing_requests"] > 40
    assert "max_queued_requests" not in options


def test_replica_has_its_shutdown_timeout_once_the_ingress_has_forgotten_it():
    assert deployed(shutdown_timeout_s=100)[1]["graceful_shutdown_timeout_s"] > 100


def test_number_of_replicas_is_fixed_or_follows_the_requests_in_progress():
    assert deployed(Replicas(3, 3))[1]["num_replicas"] == 3
    _, options = deployed(Replicas(2, 8), max_batch=4)
    assert options["autoscaling_config"] == {"min_replicas": 2, "max_replicas": 8, "target_ongoing_requests": 6}
    assert "num_replicas" not in options


def test_update_starts_new_replicas_first_where_there_is_room():
    assert deployed()[1]["max_surge_percent"] > 0
    assert deployed(Replicas(surge=False))[1]["max_surge_percent"] == 0


def test_replica_takes_its_share_of_a_node():
    _, options = deployed(Replicas(cpus=4, gpus=0.5, memory=2**33))
    assert options["ray_actor_options"] == {"num_cpus": 4, "num_gpus": 0.5, "memory": 2**33}
    assert "memory" not in deployed()[1]["ray_actor_options"]


def test_import_path_names_the_application():
    application, options = deployed()
    module, _, name = application["import_path"].partition(":")
    source = (Path(__file__).parents[3] / f"{module.replace('.', '/')}.py").read_text()
    assert f"\ndef {name}(" in source
    assert options["name"] == "Openset"
