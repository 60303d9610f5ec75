"""A bundle probe_bundle in a process of its own: its memory as it is without traffic, and its faults told."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from server.contract.manifest import BundleError
from server.memory.process_resources import with_peak
from server.registry.model_cache import BUNDLED
from server.registry.model_registry import ModelRegistry
from server.registry.probe import probe_bundle
from server.registry.warmup import Peaks
from server.settings import Settings
from server.telemetry.metrics import Metrics

ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(BUNDLED / "grounding-dino-mini", tmp_path / "bundle")


def test_memory_of_a_bundle_is_measured_elsewhere(folder):
    if with_peak(lambda: None)[1] is None:
        pytest.skip("this system does not let a process reset its peak")
    assert 2**20 < probe_bundle(folder, Settings()).image < 2**28


def test_fault_of_a_bundle_is_told_as_it_is_here(folder):
    (folder / "canary.npz").write_bytes(b"other bytes")
    with pytest.raises(BundleError, match=r"canary.npz is not the file its manifest names"):
        probe_bundle(folder, Settings())


def test_bundle_that_ends_the_process_is_refused(folder, tmp_path, monkeypatch):
    killed = tmp_path / "python"
    killed.write_text("#!/bin/sh\nkill -SEGV $$\n")
    killed.chmod(0o755)
    monkeypatch.setattr("server.registry.probe.sys.executable", str(killed))
    with pytest.raises(BundleError, match=r"bundle ended the process that tried it \(status -11\): it is not served"):
        probe_bundle(folder, Settings())


@pytest.fixture
def python(tmp_path, monkeypatch):
    """Puts a shell script in place of the interpreter that tries bundles."""

    def stand_in(script):
        file = tmp_path / "python"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setattr("server.registry.probe.sys.executable", str(file))

    return stand_in


def test_trial_that_does_not_end_is_given_up_and_ended(folder, python):
    python("exec sleep 300")
    running = []
    with pytest.raises(BundleError, match=r"was tried for trial_timeout_s=1 and did not finish"):
        probe_bundle(folder, Settings(trial_timeout_s=1), running=running)
    assert running[0].returncode == -signal.SIGKILL


def test_trial_may_be_killed_meanwhile(folder, python):
    python("exec sleep 300")
    running = []
    threading.Timer(0.5, lambda: running[0].kill()).start()
    with pytest.raises(BundleError, match=r"ended the process that tried it \(status -9\)"):
        probe_bundle(folder, Settings(), running=running)


CONFINED = "from server.registry.probe import confine; import os, sys, time; confine({memory}, {parent}); "


def confined(code, memory=None, parent=None):
    full = CONFINED.format(memory=memory, parent=os.getpid() if parent is None else parent) + code
    return subprocess.run([sys.executable, "-c", full], cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux bounds a process so")
def test_trial_has_so_much_memory_and_is_the_first_to_go():
    assert confined("bytearray(2**28)", memory=2**28).returncode == 0
    assert "MemoryError" in confined("bytearray(2**30)", memory=2**28).stderr
    assert confined("print(open('/proc/self/oom_score_adj').read())").stdout.strip() == "1000"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ties a process to another so")
def test_trial_ends_with_the_server_that_started_it(tmp_path):
    assert confined("time.sleep(60)", parent=1).returncode == 1
    child = CONFINED.format(memory=None, parent="os.getppid()") + "print(os.getpid(), flush=True); time.sleep(60)"
    code = f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {child!r}]); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        pid = int(server.stdout.readline())
        server.kill()
    deadline = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and "State:\tZ" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < deadline, "the trial outlives its server"
        time.sleep(0.05)


def test_measurement_of_the_trial_is_believed_rather_than_one_beside_traffic(detector, monkeypatch):
    monkeypatch.setattr("server.registry.model_registry.warm_up", lambda _: Peaks(image=2**40, text=2**40))
    registry = ModelRegistry(Settings(memory_limit_bytes=2**36), Metrics())
    served = registry.prepare(detector, Peaks(image=2**20, text=5))
    served.close(until=0)
    assert served.footprint.activations_bytes == 8 * 2**20 + 5
