"""What this machine could run engines with: which TensorRT is installed, and the GPU that the driver shows."""

import ctypes
import importlib
from collections.abc import Collection
from functools import cache

from server.contract.manifest import Runtime
from server.memory.cuda import CudaError, load_binding
from server.runtimes.artefact_selection import MODULES, Machine
from server.runtimes.device import Device

# Attributes of cuDeviceGetAttribute in CUDA's driver API.
_MAJOR, _MINOR = 75, 76


def this_machine(runtimes: Collection[Runtime], device: Device) -> Machine:
    """The machine as far as these runtimes go; nothing is looked for where none of them needs a GPU."""
    engines = sorted(set(runtimes) - {"onnxruntime"})
    if not engines:
        return Machine()
    if device.ordinal is None:
        return Machine(absent=dict.fromkeys(engines, "engines run on a GPU, and the device is cpu"))
    found = gpu_at(device.ordinal)
    if found is None:
        return Machine(absent=dict.fromkeys(engines, "this machine has no NVIDIA GPU that its driver shows"))
    try:
        load_binding()
    except CudaError as error:
        return Machine(absent=dict.fromkeys(engines, str(error)), gpu=found[0], compute_capability=found[1])
    versions = {runtime: version for runtime in engines if (version := _version(runtime)) is not None}
    return Machine(versions=versions, gpu=found[0], compute_capability=found[1])


def _version(runtime: Runtime) -> str | None:
    """The version of a TensorRT, if it can be imported."""
    try:
        return str(importlib.import_module(MODULES[runtime]).__version__)
    except (ImportError, OSError):  # the package, or a library that it loads
        return None


@cache
def gpu_at(ordinal: int) -> tuple[str, str] | None:
    """The name and compute capability of a GPU, asked of the driver without taking memory on it."""
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
