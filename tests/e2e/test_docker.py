"""`docker compose up server prometheus` as the README says: built, started, asked, looked into, stopped and removed.

It needs a Docker engine (whichever `docker` talks to) and takes minutes: run it with `pytest -m docker`. While the
image is built, pip looks where PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and PIP_TRUSTED_HOST say.
"""

import json
import os
import shutil
import subprocess
import threading

import httpx
import pytest

from .conftest import ROOT, free_port, until

pytestmark = pytest.mark.docker
SCENE = ROOT / "server/examples/scene.jpg"
IMAGE = "openset-server:cpu"
BUILD_WITHIN_S = 1800


def run(*command, within_s=300, **options):
    """What the command prints; its output is the message where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within_s, **options)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def succeeds(*command):
    return subprocess.run(command, capture_output=True, timeout=60).returncode == 0


def inspect(container):
    return json.loads(run("docker", "inspect", container))[0]


def logs(container):
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


class Stack:
    """The services `server` and `prometheus` of compose.yaml, in a project of their own."""

    def __init__(self, compose):
        self.compose = compose
        ports = {"OPENSET_PORT": str(free_port()), "PROMETHEUS_PORT": str(free_port())}
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("OPENSET_")
        } | ports
        tags = run("docker", "images", "prom/prometheus", "--format", "{{.Tag}}").split()
        if tags and tags[0] != "<none>":
            self.environment.setdefault("PROMETHEUS_TAG", tags[0])  # one that is here saves a download
        self.server = httpx.Client(base_url=f"http://127.0.0.1:{ports['OPENSET_PORT']}", timeout=120)
        self.prometheus = httpx.Client(base_url=f"http://127.0.0.1:{ports['PROMETHEUS_PORT']}", timeout=30)

    def __call__(self, *command, within_s=300):
        project = ["--project-name", f"openset-test-{os.getpid()}"]
        return run(*self.compose, *project, *command, within_s=within_s, env=self.environment)

    def container(self, service):
        return self("ps", "-q", service)

    def ready(self):
        return self.server.get("/readyz").status_code == 200

    def ask(self, **fields):
        return self.server.post("/detect", files=[("image", SCENE.read_bytes())], data=fields)

    def numbers(self, query):
        answer = self.prometheus.get("/api/v1/query", params={"query": query}).json()
        return [float(sample["value"][1]) for sample in answer["data"]["result"]]


@pytest.fixture(scope="module")
def stack():
    if not shutil.which("docker") or not succeeds("docker", "info"):
        pytest.skip("no Docker engine answers `docker info`")
    compose = ["docker", "compose"] if succeeds("docker", "compose", "version") else ["docker-compose"]
    if not shutil.which(compose[0]):
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    stack = Stack(compose)
    try:
        stack("build", "server", within_s=BUILD_WITHIN_S)
        stack("up", "-d", "server", "prometheus", within_s=BUILD_WITHIN_S)
        until(stack.ready, "the server in its container is ready")
        yield stack
    finally:
        stack("down", "--volumes", "--remove-orphans")


def test_server_in_its_container_finds_the_dog(stack):
    answer = stack.ask(labels=["dog", "banana"])
    assert answer.status_code == 200, answer.text
    assert [found["label"] for found in answer.json()["results"][0]["detections"]] == ["dog"]


def test_image_holds_the_page(stack):
    for path in ("", "page/app.js", "page/page.css", "page/examples/rocket.jpg"):
        answer = stack.server.get(f"/{path}")
        assert answer.status_code == 200, path
        assert "script-src 'self'" in answer.headers["content-security-policy"]


def test_image_holds_the_server_and_no_torch(stack):
    rooms = ("server", "models", "export", "torch", "onnx", "pip")
    code = f"from importlib.util import find_spec; print(*(room for room in {rooms} if find_spec(room)))"
    assert run("docker", "exec", stack.container("server"), "python3", "-c", code) == "server"


def test_runtime_in_the_container_collects_no_telemetry(stack):
    logged = logs(stack.container("server"))
    assert "ready: clip-mini, grounding-dino-mini, glip-mini\n" in logged
    assert "telemetry" not in logged  # on a read-only file system ONNX Runtime warns that it cannot keep its device id


def test_container_is_unprivileged_and_cannot_write(stack):
    container = stack.container("server")
    host = inspect(container)["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert host["CapDrop"] == ["ALL"]
    status = dict(
        line.split(":\t", 1) for line in run("docker", "exec", container, "cat", "/proc/1/status").splitlines()
    )
    assert set(status["Uid"].split()) == {"10001"}
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    for place in ("/", "/bundles", "/opt/openset", "/etc"):
        assert not succeeds("docker", "exec", container, "touch", f"{place}/written"), place
    assert succeeds("docker", "exec", container, "touch", "/tmp/written")


@pytest.mark.parametrize("service", ["server", "prometheus"])
def test_port_is_open_on_loopback_only(stack, service):
    published = inspect(stack.container(service))["HostConfig"]["PortBindings"].values()
    assert {binding["HostIp"] for bindings in published for binding in bindings} == {"127.0.0.1"}


@pytest.mark.parametrize("service", ["server", "prometheus"])
def test_container_becomes_healthy(stack, service):
    container = stack.container(service)
    until(lambda: inspect(container)["State"]["Health"]["Status"] == "healthy", f"{service} is healthy")


def test_prometheus_has_the_series_and_the_rules_of_the_server(stack):
    assert stack.ask(labels="dog").status_code == 200
    until(lambda: stack.numbers('up{job="openset"}') == [1], "the server is scraped")
    asked = 'openset_requests_total{endpoint="/detect", status="200"}'
    until(lambda: any(stack.numbers(asked)), "the request is counted")
    assert stack.numbers("openset_ready") == [1]
    assert set(stack.numbers("openset_certificate_valid")) == {1}
    groups = stack.prometheus.get("/api/v1/rules").json()["data"]["groups"]
    assert {group["name"] for group in groups} == {"openset-recording", "openset-alerts"}


def test_mounted_bundle_is_served_without_any_network(stack):
    bundle = f"{ROOT / 'server/bundles/clip-mini'}:/bundles/clip-mini:ro"
    locked = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp"]
    container = run(
        "docker", "run", "-d", *locked, "-v", bundle, "-e", "OPENSET_BUNDLE=/bundles/clip-mini", IMAGE
    )  # fmt: skip
    try:
        until(lambda: inspect(container)["State"]["Health"]["Status"] == "healthy", "the container is healthy")
        assert "ready: clip-mini\n" in logs(container)
    finally:
        run("docker", "rm", "-f", container)


def test_stopped_container_answers_what_it_has_accepted(stack):
    container, answers = stack.container("server"), []
    pictures = [("image", SCENE.read_bytes())] * 12  # together less than one client may have waiting

    def ask():
        answers.append(stack.server.post("/detect", files=pictures, data={"labels": ["dog", "cat"]}).status_code)

    def all_accepted():
        page = stack.server.get("/metrics").text
        return 'openset_queue_depth{model="grounding-dino-mini"} 0.0' not in page and (
            "openset_inflight_requests 5.0" in page  # the four, and this one
        )

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    until(all_accepted, "four requests are in progress")
    run("docker", "stop", container)
    for thread in asking:
        thread.join()
    assert answers == [200] * 4
    assert inspect(container)["State"]["ExitCode"] == 0
    run("docker", "start", container)
    until(stack.ready, "the server is ready again")
