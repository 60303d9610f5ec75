"""A bundle probe_bundle in a process of its own: its memory as it is without traffic, and its faults told."""

import shutil

import pytest

from server.contract.manifest import BundleError
from server.memory.process_resources import with_peak
from server.registry.model_registry import BUNDLED, ModelRegistry
from server.registry.probe import probe_bundle
from server.registry.warmup import Peaks
from server.settings import Settings
from server.telemetry.metrics import Metrics


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


def test_measurement_of_the_trial_is_believed_rather_than_one_beside_traffic(detector, monkeypatch):
    monkeypatch.setattr("server.registry.model_registry.warm_up", lambda _: Peaks(image=2**40, text=2**40))
    registry = ModelRegistry(Settings(memory_limit_bytes=2**36), Metrics())
    served = registry.prepare(detector, Peaks(image=2**20, text=5))
    served.close(until=0)
    assert served.footprint.activations_bytes == 8 * 2**20 + 5
