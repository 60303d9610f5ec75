import ctypes

import pytest

from server.runtimes import machine
from server.runtimes.choice import Machine
from server.runtimes.machine import gpu_at, this_machine


@pytest.fixture(autouse=True)
def _asked_anew():
    gpu_at.cache_clear()
    yield
    gpu_at.cache_clear()


class Driver:
    """CUDA's driver API, with one GPU."""

    def __init__(self, status=0):
        self.status = status

    def cuInit(self, flags):
        return self.status

    def cuDeviceGet(self, device, ordinal):
        return 0

    def cuDeviceGetName(self, name, length, device):
        name.value = b"NVIDIA RTX 4090"
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: 8, 76: 9}[attribute]
        return 0


def test_bundle_of_graphs_alone_asks_for_no_gpu(monkeypatch):
    monkeypatch.setattr(machine, "gpu_at", lambda ordinal: pytest.fail("asked"))
    assert this_machine({"onnxruntime"}) == Machine()


def test_gpu_is_what_the_driver_shows(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    found = this_machine({"tensorrt-rtx"})
    assert (found.gpu, found.compute_capability) == ("NVIDIA RTX 4090", "8.9")


def test_driver_without_a_gpu_shows_none(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(status=100))
    assert gpu_at(0) is None


def test_machine_without_a_driver_has_no_gpu(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpu_at(0) is None
