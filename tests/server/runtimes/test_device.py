import ctypes
import sys

import pytest

from server.runtimes import device as machine
from server.runtimes.device import AUTO, Device, Machine, gpu_at, this_machine
from tests.server.fake_trt import install_trt


@pytest.fixture(autouse=True)
def _driver_is_asked_again():
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
    assert this_machine({"onnxruntime"}, AUTO) == Machine()


def test_processor_runs_no_engines_and_asks_for_no_gpu(monkeypatch):
    monkeypatch.setattr(machine, "gpu_at", lambda ordinal: pytest.fail("asked"))
    found = this_machine({"tensorrt-rtx", "onnxruntime"}, Device("cpu"))
    assert found == Machine(absent={"tensorrt-rtx": "engines run on a GPU, and the device is cpu"})


def test_gpu_is_what_the_driver_shows(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver())
    assert gpu_at(0) == ("NVIDIA RTX 4090", "8.9")


def test_versions_are_those_of_the_modules_that_are_there(binding, monkeypatch):
    install_trt(monkeypatch, binding, version="10.14.1")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    found = this_machine({"tensorrt", "tensorrt-rtx"}, AUTO)
    assert found == Machine({"tensorrt": "10.14.1"}, gpu="NVIDIA RTX 4090", compute_capability="8.9")


def test_without_the_binding_no_engine_runs_and_the_package_is_named(binding, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    found = this_machine({"tensorrt"}, AUTO)
    assert found.versions == {}
    assert "pip install cuda-bindings" in found.absent["tensorrt"]


def test_machine_without_a_gpu_says_so_whatever_is_installed(binding):
    found = this_machine({"tensorrt-rtx"}, Device("cuda:5"))
    assert found.absent == {"tensorrt-rtx": "the driver shows no NVIDIA GPU on this machine"}


def test_driver_without_a_gpu_shows_none(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Driver(status=100))
    assert gpu_at(0) is None


def test_machine_without_a_driver_has_no_gpu(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert gpu_at(0) is None
