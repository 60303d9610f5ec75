"""The device that models run on: as the operator names it, and what this machine can run on it."""

import ctypes
import importlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache

from server.contract.manifest import Runtime
from server.memory.cuda import CudaError, load_binding

PACKAGES: Mapping[Runtime, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx-cu13"}
MODULES: dict[Runtime, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
# Attributes of cuDeviceGetAttribute in CUDA's driver API.
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Device:
    """A device by its `name`: "cpu"; "cuda:N"; or "auto", the first GPU for whatever can use it here, else the CPU.

    memory_bytes: the most of a GPU that all bundles together may take; 0 sets no limit.
    """

    name: str
    memory_bytes: int = 0

    @property
    def ordinal(self) -> int | None:
        """Number of the GPU that is asked for; None for the CPU."""
        if self.name == "cpu":
            return None
        return 0 if self.name == "auto" else int(self.name.removeprefix("cuda:"))

    @property
    def required(self) -> bool:
        """True where the CPU may not stand in for the GPU."""
        return self.name.startswith("cuda:")


CPU, AUTO = Device("cpu"), Device("auto")


@dataclass(frozen=True)
class Machine:
    """Hardware and software that engines need.

    versions: of each installed TensorRT that this server can run; absent: why one of them cannot be used, where more is
    known than that it is not installed; gpu, compute_capability: such as "NVIDIA RTX 4090" and "8.9", None without a
    GPU.
    """

    versions: Mapping[Runtime, str] = field(default_factory=dict)
    absent: Mapping[Runtime, str] = field(default_factory=dict)
    gpu: str | None = None
    compute_capability: str | None = None


def this_machine(runtimes: Collection[Runtime], device: Device) -> Machine:
    """This machine, as far as these runtimes need to know it; nothing is detected where none of them needs a GPU."""
    engines = sorted(set(runtimes) - {"onnxruntime"})
    if not engines:
        return Machine()
    if device.ordinal is None:
        return Machine(absent=dict.fromkeys(engines, "engines run on a GPU, and the device is cpu"))
    found = gpu_at(device.ordinal)
    if found is None:
        return Machine(absent=dict.fromkeys(engines, "the driver shows no NVIDIA GPU on this machine"))
    try:
        load_binding()
    except CudaError as error:
        return Machine(absent=dict.fromkeys(engines, str(error)), gpu=found[0], compute_capability=found[1])
    versions = {runtime: version for runtime in engines if (version := _version(runtime)) is not None}
    return Machine(versions=versions, gpu=found[0], compute_capability=found[1])


@cache
def gpu_at(ordinal: int) -> tuple[str, str] | None:
    """Name and compute capability of a GPU by the driver, without taking memory on it; None where there is none."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    failed = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), ordinal)
        or driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    )
    return None if failed else (name.value.decode(), f"{major.value}.{minor.value}")


def _version(runtime: Runtime) -> str | None:
    """Version of a TensorRT, if it can be imported."""
    try:
        return str(importlib.import_module(MODULES[runtime]).__version__)
    except (ImportError, OSError):  # the package, or a library that it loads
        return None
