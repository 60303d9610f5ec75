"""Promises of `openset cluster` and `openset label --ray`, kept on a Ray cluster of several nodes with one CPU each.

    python -m tests.cluster.acceptance
    python -m tests.cluster.acceptance --only kills overload

It runs in a network namespace (`unshare`), with the bundled models. The exit status is 1 if a promise was broken.
Clients do not repeat requests. Nodes share a machine and an address here, and there is one ingress.
"""

import argparse
import http.client
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from PIL import Image

from server.cluster.deployment import Replicas
from tests.benchmarks.live_server import ROOT, serving
from tests.cluster.closed_loop import ClosedLoop, Question
from tests.cluster.labelling import deadly_pictures, lost_actors
from tests.cluster.nodes import (
    CLIENT,
    PORT,
    TestCluster,
    await_true,
    isolate,
    logged,
    nodes_of,
    processor_s,
    scraped,
    targets,
)

SCENE = (ROOT / "server/examples/scene.jpg").read_bytes()
LABELS = ("dog", "bicycle", "banana")
DETECT = Question.about("/detect", SCENE, *LABELS)
CLASSIFY = Question.about("/classify", SCENE, *LABELS)
# A queue that 40 clients fill.
SETTINGS = {"threads": 1, "decode_threads": 1, "max_queue": 16, "max_images": 8}
SLOWEST_S = 2.0
TIMES = 3  # that a replica is killed, and that a node is lost
STEADY_S = 60
MOST_MS, LEAST_GAIN = 5.0, 1.2  # more than one server takes for a request, and times its rate
ROUNDS, ROUND_S = 3, 6.0


class Promise(NamedTuple):
    """A promise, what was measured, and whether it was kept."""

    name: str
    measured: str
    kept: bool


def same_answers(cluster: TestCluster) -> Iterator[Promise]:
    """The bytes of `openset serve` for each kind of request, times taken aside."""
    cluster.deploy(Replicas(2, 2), **SETTINGS)
    infer = {
        "inputs": [
            {"name": "url", "datatype": "BYTES", "shape": [1], "data": ["x"]},
            {"name": "labels", "datatype": "BYTES", "shape": [2], "data": ["dog", "cat"]},
        ]
    }
    json_head = {"Content-Type": "application/json"}
    questions = {
        "detect": DETECT,
        "classify": CLASSIFY,
        "similarity": Question.about("/similarity", SCENE, *LABELS, name="texts"),
        "embed": Question.about("/embed", SCENE),
        "drawn": Question.about("/detect", SCENE, *LABELS, Accept="image/png"),
        "v2 model": Question("/v2/models/clip-mini", b"", {}, "GET"),
        "v2 refusal": Question("/v2/models/clip-mini/infer", json.dumps(infer).encode(), json_head),
        "bad picture": Question.about("/detect", b"no picture", "dog"),
        "no such endpoint": Question("/nothing", b"", {}, "GET"),
    }
    flags = [word for name, value in SETTINGS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *flags) as server:
        for name, question in questions.items():
            answers = [answer(port, question) for port in (server.port, PORT, PORT)]
            yield Promise(
                f"same answer: {name}",
                f"{answers[0][0]}, {len(answers[0][1])} bytes",
                answers[0] == answers[1] == answers[2],
            )


def answer(port: int, question: Question) -> tuple[int, bytes, int]:
    """Status, body without times and ids, and the number of request ids in the head."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    response, body = question.ask(connection)
    connection.close()
    if "json" in response.headers.get("Content-Type", ""):
        document = json.loads(body)
        document.pop("timings_ms", None)
        document.pop("request_id", None)
        body = json.dumps(document).encode()
    return response.status, body, len(response.headers.get_all("X-Request-ID", []))


def kills(cluster: TestCluster) -> Iterator[Promise]:
    """A replica's process, or its node, ended at once with requests in progress there."""
    cluster.deploy(Replicas(2, 2), **SETTINGS)
    large = io.BytesIO()
    Image.open(io.BytesIO(SCENE)).resize((640, 480)).save(large, "BMP")  # 0.9 MiB, nearly the ingress's buffer
    questions = [DETECT, DETECT, Question.about("/detect", large.getvalue(), *LABELS)]
    for number in range(TIMES):
        yield under_load(f"kill -9 of a replica, {number + 1}", cluster, cluster.kill_replica, questions[number % 3])
    for number in range(TIMES):
        yield under_load(f"loss of a node, {number + 1}", cluster, cluster.lose_node, questions[number % 3])
        cluster.add_node()
        cluster.await_replicas(2)


def under_load(
    name: str,
    cluster: TestCluster,
    act: Callable[[], None],
    question: Question,
    *,
    clients: int = 6,
    slowest_s: float = float("inf"),
) -> Promise:
    """`act` under load, until two replicas run again: nothing may be lost, and no answer takes longer."""
    with ClosedLoop(PORT, question, clients) as load:
        await_true(lambda: len(load.outcomes) > 20 and min(in_progress()) >= clients // 2, "work at each replica")
        acted = time.monotonic()
        act()
        time.sleep(3)
        cluster.await_replicas(2)
        time.sleep(2)
    before = max(outcome.seconds for outcome in load.outcomes if outcome.ended <= acted)
    longest = max(outcome.seconds for outcome in load.outcomes if outcome.ended > acted)
    lost = f"lost {load.lost} {lost_of(load)}".strip()
    measured = f"{len(load.outcomes)} requests, {lost}, slowest {longest:.1f} s (before {before:.1f})"
    return Promise(name, measured, not load.lost and longest <= slowest_s)


def in_progress() -> list[float]:
    """Requests that each replica works on, without the scrape."""
    return [number - 1 for number in scraped("openset_inflight_requests")] or [0]


def lost_of(load: ClosedLoop) -> str:
    return ", ".join(f"{result}: {count}" for result, count in load.counts.items() if result != "200")


def updates(cluster: TestCluster) -> Iterator[Promise]:
    """Other settings, then one replica fewer, under load."""
    cluster.deploy(Replicas(2, 2), **SETTINGS)

    def update() -> None:
        cluster.deploy(Replicas(2, 2), **SETTINGS, max_wait_ms=1)

    def scale_down() -> None:
        cluster.deploy(Replicas(1, 1), **SETTINGS, max_wait_ms=1)
        await_true(lambda: not cluster.replicas("STOPPING"), "no replica stops")
        cluster.deploy(Replicas(2, 2), **SETTINGS, max_wait_ms=1)

    yield under_load("rolling update", cluster, update, CLASSIFY, clients=2, slowest_s=SLOWEST_S)
    yield under_load("2 replicas to 1, and back", cluster, scale_down, CLASSIFY, clients=2, slowest_s=SLOWEST_S)


def overload(cluster: TestCluster) -> Iterator[Promise]:
    """Forty clients: answers and refusals only, and the cluster stays ready."""
    cluster.deploy(Replicas(2, 2), **SETTINGS)
    with ClosedLoop(PORT, Question("/readyz", b"", {}, "GET"), 1) as probes, ClosedLoop(PORT, DETECT, 40) as load:
        time.sleep(15)
    told = all(outcome.retry_after for outcome in load.outcomes if outcome.result == "429")
    yield Promise("overload: only 200 and 429", f"{load.counts}", set(load.counts) == {"200", "429"})
    yield Promise("429 has Retry-After", "each" if told else "not each", told)
    yield Promise(
        "ready meanwhile", f"{probes.counts}, slowest {probes.longest_s:.1f} s", set(probes.counts) == {"200"}
    )


def metrics(cluster: TestCluster) -> Iterator[Promise]:
    """Scrapes of all targets add up to what was sent."""
    cluster.deploy(Replicas(2, 2), **SETTINGS)
    before = sum(scraped("openset_requests_total", 'endpoint="/classify"'))
    with ClosedLoop(PORT, CLASSIFY, 4) as load:
        time.sleep(3)
    by_replica = scraped("openset_requests_total", 'endpoint="/classify"')
    sent = len(load.outcomes)
    yield Promise(
        "scrapes add up",
        f"{sent} sent, {by_replica} counted",
        sum(by_replica) - before == sent and len(by_replica) == 2,
    )
    gone = {target["targets"][0] for target in targets()}
    cluster.kill_replica()
    time.sleep(3)
    cluster.await_replicas(2)
    await_true(
        lambda: len(targets()) == 2 and {target["targets"][0] for target in targets()} != gone, "the list is new"
    )
    answered = len(scraped("openset_ready"))
    yield Promise("a replica that is gone is not listed", f"{answered} listed, all answer", answered == 2)


def prefix(cluster: TestCluster) -> Iterator[Promise]:
    """Below a path, keys, limits and metrics are as at the root."""
    with tempfile.TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.txt"
        keys.write_text("ann 65e84be33532fb784c48129675f9eff3a682b27168c0ea744b2cf58ee02337c5\n")  # of qwerty
        open_too = ("/", "/livez", "/readyz", "/metrics")
        cluster.deploy(
            Replicas(1, 1, route_prefix="/vision"),
            **SETTINGS,
            api_keys_file=keys,
            open_endpoints=open_too,
            max_body_bytes=100_000,
        )
        asked = {
            "200 with a key": Question.about("/vision/detect", SCENE, "dog", **{"X-API-Key": "qwerty"}),
            "401 without one": Question.about("/vision/detect", SCENE, "dog"),
            "200 where none is needed": Question("/vision/readyz", b"", {}, "GET"),
            "413 of a large body": Question.about("/vision/detect", bytes(200_000), "dog", **{"X-API-Key": "qwerty"}),
        }
        for name, question in asked.items():
            status = answer(PORT, question)[0]
            yield Promise(f"/vision: {name}", str(status), str(status) == name[:3])
        counted = [
            scraped("openset_requests_total", f'endpoint="{name}"', prefix="/vision") for name in ("/detect", "other")
        ]
        yield Promise("/vision: metrics name the endpoint", f"{counted}", counted == [[3], [0]])


def clients(cluster: TestCluster) -> Iterator[Promise]:
    """Clients are told apart by the address that the ingress saw, whatever they claim."""
    cluster.deploy(Replicas(1, 1), **SETTINGS, log_format="json")
    seen = []
    for name, claim in {"none": {}, "claims": {"X-Forwarded-For": "9.9.9.9"}}.items():
        connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=60, source_address=(CLIENT, 0))
        connection.request("GET", "/models", headers={"X-Request-ID": f"acceptance-{name}", **claim})
        connection.getresponse().read()
        await_true(lambda name=name: logged(f"acceptance-{name}"), "a line in the log")
        seen += [line["client"] for line in logged(f"acceptance-{name}")]
    yield Promise("clients have their own addresses", f"{seen}", seen == [CLIENT, CLIENT])


def scaling(cluster: TestCluster) -> Iterator[Promise]:
    """One replica, two under load, one again, and no swinging while the load is steady."""
    cluster.deploy(Replicas(1, 2), autoscaling={"upscale_delay_s": 3, "downscale_delay_s": 10}, **SETTINGS, max_batch=2)
    with ClosedLoop(PORT, DETECT, 10) as load:
        began = time.monotonic()
        cluster.await_replicas(2)
        grown = time.monotonic() - began
        counts = set()
        steady = time.monotonic()
        while time.monotonic() < steady + STEADY_S:
            counts.add(len(cluster.replicas()))
            time.sleep(0.5)
    idle = time.monotonic()
    await_true(lambda: len(cluster.replicas()) == 1, "one replica again")
    shrunk = time.monotonic() - idle
    yield Promise(
        "1 replica to 2 by load, and back",
        f"after {grown:.0f} s, and {shrunk:.0f} s; lost {load.lost} of {len(load.outcomes)}",
        not load.lost,
    )
    yield Promise(f"no swinging in {STEADY_S} s", f"replicas {sorted(counts)}", counts == {2})


def cost(cluster: TestCluster) -> Iterator[Promise]:
    """Two replicas of one thread beside one server of two, in turns."""
    cluster.deploy(Replicas(2, 2), **SETTINGS | {"max_queue": 64})
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), "--threads", "2") as server:
        idle_s = processor_of(lambda: time.sleep(ROUND_S)) / ROUND_S
        ports = {"server": server.port, "cluster": PORT}
        loops: dict[tuple[str, int], list[ClosedLoop]] = {(name, count): [] for name in ports for count in (1, 16)}
        used = {name: [] for name in ports}
        for number in range(1 + ROUNDS):
            for (name, count), rounds in loops.items():
                load = ClosedLoop(ports[name], CLASSIFY, count)
                seconds = processor_of(lambda load=load: run_for(load, ROUND_S))
                if not number:  # memory, caches and connections of all processes become warm
                    continue
                rounds.append(load)
                if count == 1:
                    used[name].append(1000 * (seconds - idle_s * load.seconds) / len(load.outcomes))
    lost = sum(load.lost for rounds in loops.values() for load in rounds)
    pairs = list(zip(loops["cluster", 1], loops["server", 1], strict=True))
    more = [round(1000 * (ours.median_s - one.median_s), 1) for ours, one in pairs]
    spent = [round(ours - one, 1) for ours, one in zip(used["cluster"], used["server"], strict=True)]
    gain = [round(a.rate / b.rate, 2) for a, b in zip(loops["cluster", 16], loops["server", 16], strict=True)]
    yield Promise("none lost meanwhile", f"lost {lost}", not lost)
    outside = [round(1000 * (ours.median_outside_s - one.median_outside_s), 1) for ours, one in pairs]
    # The replica's own time is that of its node, which others use here.
    yield Promise(
        f"1 client: p50 outside the server at most {MOST_MS} ms more",
        f"{outside} ms, in all {more} ms",
        median(outside) <= MOST_MS,
    )
    yield Promise(f"1 client: at most {MOST_MS} ms of a core more", f"{spent} ms", median(spent) <= MOST_MS)
    yield Promise(f"16 clients: at least {LEAST_GAIN} times", f"{gain}", median(gain) >= LEAST_GAIN)


def run_for(load: ClosedLoop, seconds: float) -> None:
    with load:
        time.sleep(seconds)


def processor_of(work: Callable[[], None]) -> float:
    """Seconds of processor time, of the others, while `work` runs."""
    before = processor_s()
    work()
    return processor_s() - before


def labels(cluster: TestCluster) -> Iterator[Promise]:
    """A job of `openset label --ray` that loses actors, before replicas take the nodes."""
    with tempfile.TemporaryDirectory() as folder:
        yield from (Promise(*each) for each in lost_actors(cluster, Path(folder)))


def deadly(cluster: TestCluster) -> Iterator[Promise]:
    """A job with pictures that end the process that reads them."""
    with tempfile.TemporaryDirectory() as folder:
        yield from (Promise(*each) for each in deadly_pictures(cluster, Path(folder)))


CHECKS = {
    check.__name__: check
    for check in (labels, deadly, same_answers, metrics, overload, kills, updates, scaling, clients, cost, prefix)
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(CHECKS), help="checks, instead of all")
    args = parser.parse_args(argv)
    isolate("tests.cluster.acceptance", sys.argv[1:] if argv is None else list(argv))
    broken = 0
    with nodes_of(1, 1, 1) as cluster:
        for name in args.only:
            for promise in CHECKS[name](cluster):
                broken += not promise.kept
                print(f"{'kept  ' if promise.kept else 'BROKEN'} | {promise.name} | {promise.measured}", flush=True)
    print(f"{broken} broken" if broken else "all kept", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
