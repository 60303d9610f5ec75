"""Prometheus' rules and Grafana's dashboard: they name what the server has, fire for their causes, and show something.

The last part needs the programs `promtool` and `prometheus` and is skipped without them.
"""

import itertools
import json
import math
import re
import shutil
import socket
import subprocess
import threading

import httpx
import pytest

from server.errors import KINDS, TooManyJobs
from server.middleware.endpoints import ENDPOINTS, INFERENCE_ENDPOINTS, SUBMIT
from server.telemetry.metrics import SECONDS, Metrics

from .conftest import ROOT, free_port, until

PROMETHEUS = ROOT / "docker/prometheus"
RULES = sorted(PROMETHEUS.glob("rules/*.yml"))
RULE_TEXT = "\n".join(path.read_text(encoding="utf-8") for path in RULES)
DASHBOARD = json.loads((ROOT / "docker/grafana/dashboards/openset.json").read_text(encoding="utf-8"))
QUERIES = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}
VARIABLES = {"$__rate_interval": "15s", "$instance": ".*", "$model": ".*"}
POOL = "openset_pool_"  # a server may have no buffer pools; then their panel is empty and their alert silent
NAME = re.compile(r"(?:\w+:)?openset_\w+(?::\w+)?")


def series_of(metrics):
    """Names of the series that a page of metrics with every label in use has."""
    for family in metrics.registry.collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        yield from (family.name + suffix for suffix in suffixes)


def names_in(text):
    return {name for name in NAME.findall(text) if not name.startswith(POOL)}


def test_rules_and_dashboard_name_only_series_that_exist():
    recorded = set(re.findall(r"record: (\S+)", RULE_TEXT))
    named = names_in(RULE_TEXT) | names_in(" ".join(QUERIES.values()))
    assert recorded == {name for name in named if ":" in name}
    assert {name for name in named if ":" not in name} <= set(series_of(Metrics()))


def test_rules_and_dashboard_select_labels_that_the_server_sets():
    text = RULE_TEXT + " ".join(QUERIES.values())
    endpoints = {name for value in re.findall(r'endpoint=~"([^"]*)"', text) for name in value.split("|")}
    # A job is accepted at once: its time to answer would say nothing beside that of the others.
    assert endpoints == set(INFERENCE_ENDPOINTS) - {SUBMIT} <= ENDPOINTS
    reasons = {name for value in re.findall(r'reason=~"([^"]*)"', text) for name in value.split("|")}
    # Jobs that a client does not fetch are no overload that more servers would end.
    assert reasons == {kind.slug for kind in KINDS.values() if kind.status == 429} - {KINDS[TooManyJobs].slug}
    bounds = {float(bound) for bound in re.findall(r'le="([^"]*)"', text)}
    assert bounds <= set(map(float, SECONDS))


def test_every_panel_has_its_own_place_and_says_what_it_shows():
    cells = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not own & cells, panel["title"]
        assert max(x for x, _ in own) < 24, panel["title"]
        assert panel["description"], panel["title"]
        cells |= own
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def program(name):
    return shutil.which(name) or pytest.skip(f"there is no {name} on this machine")


@pytest.mark.parametrize(
    "what", [["config", str(PROMETHEUS / "prometheus.yml")], ["rules", *map(str, RULES)]], ids="cr"
)
def test_promtool_accepts(what):
    done = subprocess.run([program("promtool"), "check", *what], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_for_its_cause_and_not_for_less():
    cases = ROOT / "tests/e2e/rules/alerts_test.yml"
    done = subprocess.run([program("promtool"), "test", "rules", str(cases)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"alert: (\w+)", RULE_TEXT)) == set(re.findall(r"alertname: (\w+)", cases.read_text("utf-8")))


class Prometheus:
    """A running Prometheus, asked over HTTP."""

    def __init__(self, url):
        self._client = httpx.Client(base_url=url, timeout=30)

    def get(self, path, **params):
        answer = self._client.get(f"/api/v1/{path}", params=params).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def numbers(self, query):
        """The finite numbers that `query` gives now."""
        values = (float(sample["value"][1]) for sample in self.get("query", query=query)["result"])
        return [value for value in values if math.isfinite(value)]


@pytest.fixture(scope="module")
def traffic(server):
    """Requests of every kind while the tests run: right ones, wrong ones, and a client that hangs up."""
    scene = (ROOT / "server/examples/scene.jpg").read_bytes()
    over = threading.Event()

    def hang_up(round_):
        request = server.build_request(
            "POST", "/detect", files=[("image", scene)] * 4, data={"labels": f"late {round_}"}
        )
        headers = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
        with socket.create_connection((request.url.host, request.url.port)) as connection:
            connection.sendall(f"POST /detect HTTP/1.1\r\n{headers}\r\n".encode() + request.read())
            over.wait(0.05)

    def ask():
        for round_ in itertools.count():
            for path, fields in (
                ("/detect", {"labels": ["dog", f"thing {round_}"]}),
                ("/classify", {"labels": ["dog", "cat", f"thing {round_}"]}),
                ("/similarity", {"texts": ["a dog", f"a thing {round_}"]}),
                ("/detect", {"lables": "dog"}),
            ):
                server.post(path, files=[("image", scene)], data=fields)
            hang_up(round_)
            if over.wait(0.3):
                return

    asking = threading.Thread(target=ask)
    asking.start()
    yield
    over.set()
    asking.join()


@pytest.fixture(scope="module")
def prometheus_program():
    return program("prometheus")  # asked for first: where there is none, nothing is started


@pytest.fixture(scope="module")
def prometheus(prometheus_program, server, traffic, tmp_path_factory):
    """A Prometheus with the project's own configuration, but for its addresses and its pace."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    text = (PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8")
    for old, new in {
        "server:8000": f"127.0.0.1:{server.base_url.port}",
        "localhost:9090": f"127.0.0.1:{port}",
        "scrape_interval: 5s": "scrape_interval: 1s",
        "evaluation_interval: 15s": "evaluation_interval: 1s",
        "rules/*.yml": f"{PROMETHEUS}/rules/*.yml",
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "prometheus.yml").write_text(text, encoding="utf-8")
    command = [
        prometheus_program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with subprocess.Popen(command) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            until(lambda: httpx.get(url + "/-/ready").status_code == 200, "Prometheus is ready")
            yield Prometheus(url)
        finally:
            process.terminate()


def exists(server, query):
    return POOL not in query or POOL in server.get("/metrics").text


@pytest.mark.parametrize("title", QUERIES)
def test_dashboard_query_shows_something(prometheus, server, title):
    query = QUERIES[title]
    if not exists(server, query):
        pytest.skip("this server has no buffer pools")
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    assert "$" not in query
    until(lambda: prometheus.numbers(query), f"{query} gives numbers")


def test_every_rule_runs_and_what_it_asks_for_is_there(prometheus, server):
    def rules():
        found = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else None

    found = until(rules, "every rule has run")
    assert len(found) == len(re.findall(r"(?:alert|record): ", RULE_TEXT))
    assert {rule["name"]: rule.get("lastError") for rule in found if rule["health"] != "ok"} == {}
    for rule in found:
        asked = {rule["name"]} if rule["type"] == "recording" else set(NAME.findall(rule["query"])) or {"up"}
        for name in filter(lambda name: exists(server, name), asked):
            until(lambda name=name: prometheus.numbers(name), f"{name} of {rule['name']} has numbers")


def test_healthy_server_sets_no_alert_off(prometheus):
    until(lambda: prometheus.numbers('up{job="openset"} == 1'), "the server is scraped")
    firing = {
        alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"] if alert["state"] == "firing"
    }
    assert firing == set()


VARIABLE_QUERIES = [entry["definition"] for entry in DASHBOARD["templating"]["list"] if entry["type"] == "query"]


@pytest.mark.parametrize("query", VARIABLE_QUERIES)
def test_dashboard_variable_has_values(prometheus, query):
    series, label = re.fullmatch(r"label_values\((\w+), (\w+)\)", query).groups()
    until(lambda: prometheus.get(f"label/{label}/values", **{"match[]": series}), f"{query} gives values")
