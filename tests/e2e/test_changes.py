"""`openset bundles` on a live server under constant load: no request fails, and answers come from what is served."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from server.__main__ import main
from server.registry.model_cache import BUNDLED

from .conftest import ROOT, ServerClient, free_port, until

REPLACEMENTS = 2
PAUSE_S = 0.1  # between an answer and the next request: most of two cores is left for loading
SCENE = (ROOT / "server/examples/scene.jpg").read_bytes()


@pytest.fixture
def roots(tmp_path):
    """A root with three bundles, the detector in several versions; and a file with an admin's key and a user's."""
    root = tmp_path / "bundles"
    for name in ("clip-mini", "glip-mini"):
        shutil.copytree(BUNDLED / name, root / name)
    for number in range(REPLACEMENTS + 1):
        folder = root / f"detector-{number}"
        shutil.copytree(BUNDLED / "grounding-dino-mini", folder)
        described = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps(described | {"version": str(number)}))
    return root


def new_key(capsys, *options):
    main(["key", "new", *options])
    return re.findall(r": +(\S.*)", capsys.readouterr().out)


@pytest.fixture
def live(roots, tmp_path, capsys, monkeypatch):
    """The server on the first two bundles, asked as a user; `openset bundles` is the administrator's."""
    (admin, admin_line), (user, user_line) = new_key(capsys, "ann", "--admin"), new_key(capsys, "bob")
    (tmp_path / "keys.txt").write_text(f"{admin_line}\n{user_line}\n")
    monkeypatch.setenv("OPENSET_API_KEY", admin)
    url = f"http://127.0.0.1:{free_port()}"
    flags = {"--port": url.rpartition(":")[2], "--bundle-roots": roots, "--api-keys-file": tmp_path / "keys.txt"}
    bundles = ["--bundle", roots / "clip-mini", "--bundle", roots / "detector-0"]
    command = [sys.executable, "-m", "server", "serve", *bundles, *(word for flag in flags.items() for word in flag)]
    with (
        subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.PIPE, text=True) as process,
        ServerClient(base_url=url, headers={"X-API-Key": user}, timeout=60) as client,
    ):
        log = []
        reading = threading.Thread(target=lambda: log.extend(process.stderr))
        reading.start()
        try:
            until(lambda: client.get("/readyz").status_code == 200, "the server is ready")
            client.pid, client.log = process.pid, log
            yield client
        finally:
            process.terminate()
            reading.join()


class Load:
    """Threads that ask all the time, and what they were answered."""

    def __init__(self, client):
        self.answers, self.failures, self._client = [], [], client
        self._stop = threading.Event()
        asks = (("/detect", {"labels": ["dog", "bicycle"]}), ("/classify", {"labels": ["dog", "cat"]}))
        self._threads = [threading.Thread(target=self._ask, args=ask) for ask in asks * 2]

    def _ask(self, path, data):
        while not self._stop.wait(PAUSE_S):
            started = time.monotonic()
            try:
                answer = self._client.post(path, files=[("image", SCENE)], data=data)
            except httpx.HTTPError as error:
                self.failures.append(repr(error))
                continue
            if answer.status_code != 200:
                self.failures.append(answer.text)
            else:
                model = answer.json()["model"]
                self.answers.append((model["name"], model["version"], started, time.monotonic()))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def resident_mib(client):
    status = Path(f"/proc/{client.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def test_no_request_fails_while_bundles_are_replaced_added_and_removed(live, roots, capsys):
    def bundles(*words):
        assert main(["bundles", *words, "--url", str(live.base_url)]) == 0
        return capsys.readouterr().out

    with Load(live) as load:
        until(lambda: len(load.answers) > 40, "the load has begun")
        before, switched = resident_mib(live), {"0": 0.0}
        for number in range(1, REPLACEMENTS + 1):
            told = bundles("replace", "grounding-dino-mini", f"detector-{number}")
            switched[str(number)] = time.monotonic()
            assert f"grounding-dino-mini {number} answers now, loaded in" in told
            assert f"grounding-dino-mini {number - 1} has gone, drained in" in told
        assert "glip-mini 1 answers now" in bundles("add", str(roots / "glip-mini"))
        asked = live.post("/detect", files=[("image", SCENE)], data={"labels": "dog", "model": "glip-mini"})
        assert asked.json()["model"]["name"] == "glip-mini"
        assert "glip-mini 1 has gone" in bundles("remove", "glip-mini")
        done = len(load.answers)
        until(lambda: len(load.answers) > done + 20, "the load goes on")
    after = resident_mib(live)
    print(f"{len(load.answers)} answers, {len(load.failures)} failures; {before:.0f}, then {after:.0f} MiB")
    assert load.failures == []
    versions = [version for name, version, *_ in load.answers if name == "grounding-dino-mini"]
    assert set(versions) == {str(number) for number in range(REPLACEMENTS + 1)}, "all of them have answered"
    late = [entry for entry in load.answers if entry[2] > switched.get(str(int(entry[1]) + 1), float("inf"))]
    assert [entry for entry in late if entry[0] == "grounding-dino-mini"] == [], "none after it has gone"
    assert [model["name"] for model in live.get("/models").json()["models"]] == ["clip-mini", "grounding-dino-mini"]
    assert "glip-mini" not in live.get("/metrics").text
    assert not [line for line in live.log if "ERROR" in line or "Traceback" in line]
    assert after < before + 150, "what more models left in the heap, none of them"


def test_bundle_whose_file_was_changed_is_refused_by_the_command(live, roots, capsys):
    graph = roots / "glip-mini" / "detector.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"x")
    assert main(["bundles", "add", "glip-mini", "--url", str(live.base_url)]) == 2
    refusal = capsys.readouterr().err
    assert refusal.startswith(f"openset bundles: {graph} is not the file its manifest names (its SHA-256 differs)")
    assert main(["bundles", "list", "--url", str(live.base_url)]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in listed] == [
        ["clip-mini", "clip", "1"],
        ["grounding-dino-mini", "grounding_dino", "0"],
    ]
