"""A Ray cluster of several nodes on this machine, in a network namespace of its own."""

import contextlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from ray.cluster_utils import Cluster

from server.cluster.arguments import DASHBOARD
from server.cluster.cli import APPLICATIONS, up
from server.cluster.deployment import APPLICATION, DEPLOYMENT, Replicas, serve_config
from server.cluster.ingress import node_variables
from server.settings import read_settings
from tests.benchmarks.live_server import ROOT

PORT = 18400
WITHIN_S = 120
CLIENT = "10.1.2.3"  # an address of the namespace that is none of its nodes
INSIDE = "OPENSET_ACCEPTANCE_INSIDE"
LOGS = Path("/tmp/ray/session_latest/logs")
_STORE_BYTES = 100 * 2**20
_SERIES = re.compile(r"^(openset_\w+)(\{[^}]*\})? (\S+)$", re.MULTILINE)


def isolate(module: str, words: Sequence[str]) -> None:
    """Run `python -m module words` again in a namespace that has loopback only: Ray looks for other addresses."""
    if INSIDE in os.environ:
        return
    os.environ[INSIDE] = "1"
    unshare = ["unshare", "-rn", "-pf", "--mount-proc", "--kill-child=KILL"]
    shell = ["sh", "-c", f'ip link set lo up && ip addr add {CLIENT}/32 dev lo && exec "$@"', "sh"]
    os.execvp("unshare", [*unshare, *shell, sys.executable, "-m", module, *words])


class TestCluster:
    """Nodes, and what is deployed on them; the head has no CPU for replicas."""

    __test__ = False

    def __init__(self, cpus: Sequence[int]) -> None:
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        # Ray's workers would be nice to all else on this machine, such as a server that they are compared with.
        os.environ.update(node_variables() | {"PYTHONPATH": path, "RAY_worker_niceness": "0"})
        head = {"num_cpus": 0, "include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": 8265}
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={**head, "object_store_memory": _STORE_BYTES, "node_ip_address": "127.0.0.1"},
        )
        self.nodes: dict[str, Any] = {}
        for count in cpus:
            self.add_node(count)
        self.address: str = self._cluster.address
        self._dashboard = httpx.Client(base_url=DASHBOARD, timeout=WITHIN_S, trust_env=False)

    def add_node(self, cpus: int = 1) -> None:
        """Add a node with so many CPUs."""
        node = self._cluster.add_node(num_cpus=cpus, object_store_memory=_STORE_BYTES, node_ip_address="127.0.0.1")
        self.nodes[node.node_id] = node

    def deploy(self, replicas: Replicas, *, autoscaling: dict[str, float] | None = None, **settings: Any) -> None:
        """Deploy by `openset cluster up`, and wait until it answers; one ingress, since all nodes have one address."""
        config = serve_config(read_settings(port=PORT, **settings), replicas)
        config["proxy_location"] = "HeadOnly"
        if autoscaling:
            config["applications"][0]["deployments"][0]["autoscaling_config"] |= autoscaling
        up(config, address=DASHBOARD)

    def replicas(self, state: str = "RUNNING") -> list[dict[str, Any]]:
        """The replicas in this state, as the dashboard lists them."""
        applications = self._dashboard.get(APPLICATIONS).json()["applications"]
        listed: list[dict[str, Any]] = applications[APPLICATION]["deployments"][DEPLOYMENT]["replicas"]
        return [replica for replica in listed if replica["state"] == state]

    def await_replicas(self, count: int) -> None:
        """Wait until so many run, and no other starts or stops."""
        await_true(lambda: len(self.replicas()) == count and not self.replicas("STARTING"), f"{count} replicas")

    def kill_replica(self) -> None:
        """End the process of a replica at once."""
        os.kill(self.replicas()[0]["pid"], signal.SIGKILL)

    def lose_node(self) -> None:
        """End a node with a replica at once, and all its processes."""
        lost = self.replicas()[0]["node_id"]
        self._cluster.remove_node(self.nodes.pop(lost), allow_graceful=False)

    def replace_node(self) -> None:
        """End the oldest node at once, whatever it has, and add another."""
        self._cluster.remove_node(self.nodes.pop(next(iter(self.nodes))), allow_graceful=False)
        self.add_node()

    def close(self) -> None:
        """End all nodes."""
        self._dashboard.close()
        self._cluster.shutdown()


@contextlib.contextmanager
def nodes_of(*cpus: int) -> Iterator[TestCluster]:
    """A cluster with nodes of so many CPUs."""
    cluster = TestCluster(cpus)
    try:
        yield cluster
    finally:
        cluster.close()


def await_true(held: Callable[[], bool], what: str, *, within_s: float = WITHIN_S) -> None:
    """Wait until it holds."""
    give_up = time.monotonic() + within_s
    while not held():
        if time.monotonic() > give_up:
            raise TimeoutError(f"{what}: not within {within_s} s")
        time.sleep(0.2)


def processor_s() -> float:
    """Seconds of processor time of all processes in the namespace so far, without this one."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            ticks += 0 if int(path.parent.name) == os.getpid() else int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def logged(request_id: str) -> list[dict[str, Any]]:
    """Lines about a request in the logs of replicas, which must be JSON."""
    lines = [line for path in LOGS.glob("worker-*.err") for line in path.read_text(errors="replace").splitlines()]
    return [json.loads(line) for line in lines if request_id in line and line.startswith("{")]


def targets(prefix: str = "") -> list[dict[str, Any]]:
    """The replicas for Prometheus, as the ingress lists them."""
    listed: list[dict[str, Any]] = httpx.get(
        f"http://127.0.0.1:{PORT}{prefix}/metrics/targets", timeout=WITHIN_S
    ).json()
    return listed


def scraped(name: str, *labels: str, prefix: str = "") -> list[float]:
    """The sum of a metric's series with all `labels`, for each target."""
    sums = []
    for target in targets(prefix):
        page = httpx.get(f"http://{target['targets'][0]}{target['labels']['__metrics_path__']}", timeout=WITHIN_S).text
        series = [(given, float(value)) for metric, given, value in _SERIES.findall(page) if metric == name]
        sums.append(sum(value for given, value in series if all(label in given for label in labels)))
    return sums
