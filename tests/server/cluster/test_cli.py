"""`openset cluster`, against a stand-in for the cluster's dashboard."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import yaml

from server.__main__ import main
from server.cluster import cli
from server.cluster.deployment import APPLICATION, Replicas, serve_config
from server.cluster.ingress import node_variables
from server.settings import read_settings


@dataclass
class Done:
    """A program that has ended."""

    returncode: int = 0
    stderr: bytes = b""
    stdout: bytes = b""


class Dashboard(BaseHTTPRequestHandler):
    """Answers of a cluster: each GET takes the next of `states`, and the last one again."""

    states: list
    put: list
    address: str
    token = ""

    def do_GET(self):
        if self.token and self.headers["Authorization"] != f"Bearer {self.token}":
            self.answer(401, "Unauthorized: Missing authentication token")
            return
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        self.answer(state if isinstance(state, int) else 200, {"applications": {} if isinstance(state, int) else state})

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.put.append(json.loads(body))
        self.answer(400 if b'"port": 0' in body or b'"port":0' in body else 200, "port 0 is none")

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def dashboard(monkeypatch):
    monkeypatch.setattr(cli, "_LOOK_EVERY_S", 0.01)

    class handler(Dashboard):
        states, put = [{}], []

    server = HTTPServer(("127.0.0.1", 0), handler)
    running = threading.Thread(target=server.serve_forever)
    running.start()
    handler.address = f"http://127.0.0.1:{server.server_port}"
    yield handler
    server.shutdown()
    running.join()
    server.server_close()


def state(status, message=""):
    return {APPLICATION: {"status": status, "message": message}}


def test_config_is_printed_for_serve_deploy(capsys):
    shares = ["--cpus", "3", "--gpus", "0.5", "--memory", "1KiB"]
    words = ["--port", "81", "--replicas", "2-4", *shares, "--route-prefix", "/vision", "--no-surge"]
    assert main(["cluster", "config", *words]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config == serve_config(
        read_settings(port=81),
        Replicas(2, 4, cpus=3, gpus=0.5, memory=1024, route_prefix="/vision", surge=False),
    )


def test_env_is_read_by_the_shell():
    printed = subprocess.run([sys.executable, "-m", "server", "cluster", "env"], capture_output=True, text=True).stdout
    shell = f'{printed}\nprintf %s "$RAY_SERVE_HAPROXY_RETRY_ON"'
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True)
    assert done.stdout == "conn-failure empty-response response-timeout"


def test_up_deploys_and_waits_until_replicas_run(dashboard, capsys):
    waiting = state("DEPLOYING") | {}
    waiting[APPLICATION]["deployments"] = {"Openset": {"message": "no node has 1 CPU"}}
    dashboard.states = [503, {}, state("DEPLOYING"), waiting, waiting, state("RUNNING")]
    assert main(["cluster", "up", "--address", dashboard.address, "--port", "81", "--max-queue", "20"]) == 0
    (config,) = dashboard.put
    assert config["applications"][0]["args"] == {"max_queue": 20}
    told = capsys.readouterr().err
    assert "port 81" in told
    assert told.count("no node has 1 CPU") == 1


def test_replica_that_does_not_start_is_told_in_a_line(dashboard, capsys):
    dashboard.states = [{}, state("DEPLOY_FAILED", "Traceback ...\n\nBundleError: /no is no bundle\n")]
    assert main(["cluster", "up", "--address", dashboard.address]) == 2
    assert "the deployment failed: BundleError: /no is no bundle (" in capsys.readouterr().err


def test_replica_that_was_just_lost_is_waited_for(dashboard, monkeypatch, capsys):
    dashboard.states = [{}, state("UNHEALTHY", "a replica's health check failed"), state("RUNNING")]
    assert main(["cluster", "up", "--address", dashboard.address]) == 0
    monkeypatch.setattr(cli, "_WITHIN_S", 0.1)
    dashboard.states = [{}, state("UNHEALTHY", "a replica's health check failed")]
    assert main(["cluster", "up", "--address", dashboard.address]) == 2
    assert "a replica's health check failed" in capsys.readouterr().err


def test_applications_of_others_are_not_ended(dashboard, capsys):
    dashboard.states = [{"theirs": {"status": "RUNNING"}}]
    assert main(["cluster", "up", "--address", dashboard.address]) == 2
    assert "the cluster also serves theirs, which this would end" in capsys.readouterr().err
    assert dashboard.put == []


def test_token_of_ray_is_sent_from_where_ray_reads_it(dashboard, monkeypatch, tmp_path, capsys):
    dashboard.token, dashboard.states = "secret", [{}, state("RUNNING")]
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["cluster", "up", "--address", dashboard.address]) == 2
    assert "Missing authentication token" in capsys.readouterr().err
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("secret\n")
    assert main(["cluster", "up", "--address", dashboard.address]) == 0
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "none"))
    assert main(["cluster", "up", "--address", dashboard.address]) == 2
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    assert main(["cluster", "up", "--address", dashboard.address]) == 0


@pytest.mark.parametrize(
    ("host", "token", "mode", "started"),
    [
        (
            "127.0.0.1",
            "",
            None,
            ["get-auth-token --generate", "start --head --dashboard-host 127.0.0.1 --node-ip-address"],
        ),
        ("127.0.0.1", "secret", None, ["start --head --dashboard-host 127.0.0.1 --node-ip-address 127.0.0.1"]),
        ("0.0.0.0", "secret", None, ["start --head --dashboard-host 127.0.0.1"]),
        ("127.0.0.1", "", "disabled", ["start --head --dashboard-host 127.0.0.1 --node-ip-address 127.0.0.1"]),
    ],
)
def test_ray_is_started_for_holders_of_its_token(host, token, mode, started, monkeypatch, tmp_path):
    ran = []
    monkeypatch.setattr(subprocess, "run", lambda words, **given: ran.append((words, given)) or Done())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    if mode:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    cli.start_head(host)
    assert len(ran) == len(started)
    for (words, given), expected in zip(ran, started, strict=True):
        assert " ".join(words[3:]).startswith(expected)
        assert given["env"]["RAY_AUTH_MODE"] == (mode or "token")
        assert node_variables().items() <= given["env"].items()
    assert ("--node-ip-address" in ran[-1][0]) == (host == "127.0.0.1")


def test_ray_that_does_not_start_is_told(monkeypatch):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Done(returncode=1, stderr=b"...\nthe port is taken\n"))
    with pytest.raises(cli.ClusterError, match="Ray cannot be started: the port is taken"):
        cli.start_head("127.0.0.1")


def test_ray_is_ended_with_a_command_that_stays(dashboard, monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(subprocess, "run", lambda words, **_: ran.append(words[3]) or Done())
    monkeypatch.setattr(cli, "DASHBOARD", dashboard.address)
    monkeypatch.setattr(cli, "_STAY_EVERY_S", 0.01)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    dashboard.states = [{}, *[state("RUNNING")] * 3]

    def stop_once_it_stays():
        while len(dashboard.states) > 1:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_once_it_stays).start()
    assert main(["cluster", "up", "--block"]) == 0
    assert ran == ["start", "stop"]
    assert signal.getsignal(signal.SIGTERM) != signal.default_int_handler
    told = capsys.readouterr().err
    assert "ready: every node answers" in told
    assert "Ray is stopping" in told
    dashboard.states = [{}, state("DEPLOY_FAILED", "BundleError: /no is no bundle")]
    assert main(["cluster", "up", "--block"]) == 2
    assert ran == ["start", "stop"] * 2


def test_ray_that_goes_on_after_a_failure_is_told(dashboard, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Done())
    monkeypatch.setattr(cli, "DASHBOARD", dashboard.address)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "secret")
    dashboard.states = [{}, state("DEPLOY_FAILED", "BundleError: /no is no bundle")]
    assert main(["cluster", "up"]) == 2
    assert "`ray stop` ends the cluster" in capsys.readouterr().err


def test_refusal_of_the_cluster_is_told(dashboard, capsys):
    assert main(["cluster", "up", "--address", dashboard.address, "--port", "0"]) == 2
    assert "the cluster refuses the deployment" in capsys.readouterr().err


def test_dashboard_that_does_not_answer_is_told(monkeypatch, capsys):
    monkeypatch.setattr(cli, "_WITHIN_S", 0.1)
    assert main(["cluster", "up", "--address", "http://127.0.0.1:9"]) == 2
    assert "no Ray dashboard answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_address_that_is_none_is_told(capsys):
    assert main(["cluster", "up", "--address", "head:8265"]) == 2
    assert "is no address like http://127.0.0.1:8265" in capsys.readouterr().err


def test_wrong_setting_is_told_before_anything_starts(capsys):
    assert main(["cluster", "up", "--max-queue", "0"]) == 2
    assert "openset cluster: --max-queue='0' is refused" in capsys.readouterr().err
