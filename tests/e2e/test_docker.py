"""`docker compose up` as the README says, without Grafana: built, started, asked, looked into, stopped and removed.

It needs a Docker engine (whichever `docker` talks to) and takes minutes: run it with `pytest -m docker`. While the
image is built, pip looks where PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS and PIP_TRUSTED_HOST say.
"""

import http.client
import json
import os
import re
import shutil
import subprocess
import threading
from contextlib import contextmanager

import httpx
import pytest

from models.model_zoo import OFFICIAL
from tests.models.hub_server import HubServer
from tests.parity import containers, golden

from .conftest import ROOT, free_port, until

pytestmark = pytest.mark.docker
PICTURE = ROOT / "server/examples/cow.jpg"
IMAGE = "openset-server:cpu"
BUILD_WITHIN_S = 1800
UP_WITHIN_S = 900
CLIP = "clip-vit-base-patch32"
STOP_WITHIN_S = 300  # in place of 30, which a machine with other work may need for a handful of pictures


def run(*command, within_s=900, **options):
    """What the command prints; its output is the message where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within_s, **options)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def succeeds(*command):
    return subprocess.run(command, capture_output=True, timeout=600).returncode == 0


def inspect(container):
    return json.loads(run("docker", "inspect", container))[0]


def logs(container):
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


class Stack:
    """The services of compose.yaml but Grafana, in a project of their own, with these variables of ours."""

    SERVICES = ("server", "proxy", "prometheus")

    def __init__(self, compose, name, *, files=("compose.yaml",), **variables):
        self.compose = [*compose, *(word for file in files for word in ("-f", file))]
        self.project = f"openset-{name}-{os.getpid()}"
        ports = {"OPENSET_PORT": str(free_port()), "PROMETHEUS_PORT": str(free_port())}
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("OPENSET_")
        } | ports
        for image, variable in (("prom/prometheus", "PROMETHEUS_TAG"), ("haproxy", "HAPROXY_TAG")):
            tags = run("docker", "images", image, "--format", "{{.Tag}}").split()
            if tags and tags[0] != "<none>":
                self.environment.setdefault(variable, tags[0])  # one that is here saves a download
        self.environment |= variables
        self.server = httpx.Client(base_url=f"http://127.0.0.1:{ports['OPENSET_PORT']}", timeout=120)
        self.prometheus = httpx.Client(base_url=f"http://127.0.0.1:{ports['PROMETHEUS_PORT']}", timeout=30)

    def __call__(self, *command, within_s=900):
        return run(*self.compose, "--project-name", self.project, *command, within_s=within_s, env=self.environment)

    def container(self, service):
        return self.containers(service)[0]

    def containers(self, service):
        return self("ps", "-q", service).split()

    def up(self, *options):
        self("up", "-d", *options, *self.SERVICES, within_s=BUILD_WITHIN_S)
        until(self.ready, "the server in its container is ready", within_s=UP_WITHIN_S)

    def ready(self):
        return self.server.get("/readyz").status_code == 200

    def ask(self, **fields):
        return self.server.post("/detect", files=[("image", PICTURE.read_bytes())], data=fields)

    def numbers(self, query):
        answer = self.prometheus.get("/api/v1/query", params={"query": query}).json()
        return [float(sample["value"][1]) for sample in answer["data"]["result"]]


@pytest.fixture(scope="module")
def compose():
    """The command of Docker Compose, with the image of the server built."""
    if not shutil.which("docker") or not succeeds("docker", "info"):
        pytest.skip("no Docker engine answers `docker info`")
    compose = ["docker", "compose"] if succeeds("docker", "compose", "version") else ["docker-compose"]
    if not shutil.which(compose[0]):
        pytest.skip("neither `docker compose` nor docker-compose is installed")
    Stack(compose, "build")("build", "server", within_s=BUILD_WITHIN_S)
    return compose


@contextmanager
def started(stack, *options):
    try:
        stack.up(*options)
        yield stack
    finally:
        stack("down", "--volumes", "--remove-orphans")


@pytest.fixture(scope="module")
def stack(compose):
    with started(Stack(compose, "test", OPENSET_SHUTDOWN_TIMEOUT_S=str(STOP_WITHIN_S))) as stack:
        yield stack


def test_server_in_its_container_finds_the_cow(stack):
    answer = stack.ask(labels=["cow", "bicycle", "banana"])
    assert answer.status_code == 200, answer.text
    assert [found["label"] for found in answer.json()["results"][0]["detections"]] == ["cow"]


def test_image_holds_the_page(stack):
    for path in ("", "page/app.js", "page/page.css", "page/examples/rocket.jpg"):
        answer = stack.server.get(f"/{path}")
        assert answer.status_code == 200, path
        assert "script-src 'self'" in answer.headers["content-security-policy"]


def test_image_holds_no_torch(stack):
    rooms = ("server", "torch", "onnx", "onnxscript", "pip")
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
    assert (host["Memory"], host["PidsLimit"]) == (8 * 2**30, 1024)
    for place in ("/", "/bundles", "/models", "/opt/openset", "/etc"):
        assert not succeeds("docker", "exec", container, "touch", f"{place}/written"), place
    assert succeeds("docker", "exec", container, "touch", "/tmp/written")


@pytest.mark.parametrize("service", ["proxy", "prometheus"])
def test_port_is_open_on_loopback_only(stack, service):
    published = inspect(stack.container(service))["HostConfig"]["PortBindings"].values()
    assert {binding["HostIp"] for bindings in published for binding in bindings} == {"127.0.0.1"}


@pytest.mark.parametrize("service", ["server", "prometheus"])
def test_container_becomes_healthy(stack, service):
    container = stack.container(service)
    until(lambda: inspect(container)["State"]["Health"]["Status"] == "healthy", f"{service} is healthy")


def test_prometheus_has_the_series_and_the_rules_of_the_server(stack):
    assert stack.ask(labels="cow").status_code == 200
    until(lambda: stack.numbers('up{job="openset"}') == [1], "the server is scraped")
    assert stack.server.get("/metrics").status_code == 404
    asked = 'openset_requests_total{endpoint="/detect", status="200"}'
    until(lambda: any(stack.numbers(asked)), "the request is counted")
    assert stack.numbers("openset_ready") == [1]
    assert set(stack.numbers("openset_certificate_valid")) == {1}
    groups = stack.prometheus.get("/api/v1/rules").json()["data"]["groups"]
    assert {group["name"] for group in groups} == {"openset-recording", "openset-alerts"}


@pytest.mark.parametrize("path", ["/metrics", "/metrics?x=1", "/%6d%65trics", "http://other/metrics"])
def test_proxy_keeps_metrics_back_however_they_are_spelt(stack, path):
    connection = http.client.HTTPConnection("127.0.0.1", stack.server.base_url.port, timeout=60)
    connection.request("GET", path)
    assert connection.getresponse().status == 404
    connection.close()


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
    pictures = [("image", PICTURE.read_bytes())] * 4

    def ask():
        answer = stack.server.post("/detect", files=pictures, data={"labels": ["cow", "cat"]}, timeout=STOP_WITHIN_S)
        answers.append(answer.status_code)

    (address,) = (network["IPAddress"] for network in inspect(container)["NetworkSettings"]["Networks"].values())

    def all_accepted():
        page = httpx.get(f"http://{address}:8000/metrics").text
        return 'openset_queue_depth{model="grounding-dino-mini"} 0.0' not in page and (
            "openset_inflight_requests 5.0" in page  # the four, and this one
        )

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    until(all_accepted, "four requests are in progress")
    try:
        run("docker", "stop", "--time", str(STOP_WITHIN_S), container)
        for thread in asking:
            thread.join()
        assert answers == [200] * 4
        assert inspect(container)["State"]["ExitCode"] == 0
    finally:
        run("docker", "start", container)
        until(stack.ready, "the server is ready again", within_s=UP_WITHIN_S)


def test_server_has_no_way_out(stack):
    container = stack.container("server")
    (network,) = inspect(container)["NetworkSettings"]["Networks"]
    assert json.loads(run("docker", "network", "inspect", network))[0]["Internal"]
    code = "import socket; socket.create_connection(('1.1.1.1', 53), 3)"
    done = subprocess.run(
        ["docker", "exec", container, "python3", "-c", code], capture_output=True, text=True, timeout=60
    )
    # Newer engines give such a container no route, older ones drop what it sends.
    assert re.search("Network is unreachable|timed out", done.stderr), done.stderr


def test_two_servers_share_the_requests_and_prometheus_finds_both(stack):
    stack("up", "-d", "--scale", "server=2", *stack.SERVICES)
    try:
        until(lambda: stack.numbers('up{job="openset"}') == [1, 1], "both are scraped", within_s=UP_WITHIN_S)
        asked = 'openset_requests_total{endpoint="/detect", status="200"}'

        def both_have_answered():
            assert stack.ask(labels="cow").status_code == 200
            return len(stack.numbers(asked)) == 2 and min(stack.numbers(asked)) > 0

        until(both_have_answered, "both have answered", within_s=UP_WITHIN_S)
    finally:
        stack("up", "-d", "--scale", "server=1", *stack.SERVICES)


def test_client_cannot_claim_an_address(stack):
    claimed = {"X-Forwarded-For": "203.0.113.7"}
    assert stack.server.get("/models", headers=claimed).status_code == 200
    told = [line for container in stack.containers("server") for line in logs(container).splitlines()]
    assert any(re.search(r"/models.*client=\d", line) for line in told)
    assert "203.0.113.7" not in "".join(told)


@pytest.fixture(scope="module")
def hub(compose, tmp_path_factory):
    """A hub that containers reach, with CLIP ViT-B/32 of synthetic weights."""
    folder = tmp_path_factory.mktemp("clip")
    tensors = golden.synthesise("hf_clip_ViT-B-32")
    containers.write_huggingface(folder, tensors, containers.clip_hf_config(tensors))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    gateway = run("docker", "network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")
    with HubServer({OFFICIAL[CLIP].repository: files}, reached_at=gateway) as hub:
        yield hub


def classified(client):
    answer = client.post("/classify", files={"image": PICTURE.read_bytes()}, data={"labels": ["cow", "cat"]})
    assert answer.status_code == 200, answer.text
    return answer.json()["model"]["name"]


def test_named_model_is_pulled_once_and_served_without_a_way_out(compose, hub):
    with started(Stack(compose, "model", OPENSET_MODEL=CLIP, HF_ENDPOINT=hub.url)) as stack:
        assert classified(stack.server) == CLIP
        assert set(inspect(stack.container("server"))["NetworkSettings"]["Networks"]) == {f"{stack.project}_inside"}
        assert hub.times() == {"model.safetensors": 1}
        hub.asked.clear()
        stack.up("--force-recreate")
        assert classified(stack.server) == CLIP
        assert hub.asked == []


def test_container_alone_pulls_into_its_volume_and_serves(compose, hub):
    port, volume = free_port(), f"openset-test-{os.getpid()}"
    options = ["-p", f"127.0.0.1:{port}:8000", "-v", f"{volume}:/models", "-e", f"HF_ENDPOINT={hub.url}"]
    container = run("docker", "run", "-d", *options, IMAGE, "serve", "--model", CLIP)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            ready = lambda: client.get("/readyz").status_code == 200  # noqa: E731
            until(ready, "the pulled model is served", within_s=UP_WITHIN_S)
            assert classified(client) == CLIP
    finally:
        run("docker", "rm", "-f", container)
        run("docker", "volume", "rm", volume)


def test_keys_are_a_secret_and_prometheus_needs_none(compose, tmp_path):
    key, line = (
        words.split(":", 1)[1].strip() for words in run("docker", "run", "--rm", IMAGE, "key", "new").splitlines()
    )
    (tmp_path / "keys").write_text(f"{line}\n")
    files = ("compose.yaml", "docker/api-keys.yaml")
    with started(Stack(compose, "keys", files=files, API_KEYS_FILE=str(tmp_path / "keys"))) as stack:
        assert stack.ask(labels="cow").status_code == 401
        stack.server.headers["X-API-Key"] = key
        assert stack.ask(labels="cow").status_code == 200
        assert stack.server.get("/metrics").status_code == 404
        until(lambda: stack.numbers('up{job="openset"}') == [1], "the server is scraped")
