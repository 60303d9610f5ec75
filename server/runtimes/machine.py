"""What this machine could run engines with: which TensorRT is installed, and the GPU that the driver shows."""

import ctypes
from collections.abc import Collection
from functools import cache

from server.contract.manifest import Runtime
from server.runtimes.choice import Machine

# Attributes of cuDeviceGetAttribute in CUDA's driver API.
_MAJOR, _MINOR = 75, 76


def this_machine(runtimes: Collection[Runtime]) -> Machine:
    """The machine as far as these runtimes go; nothing is looked for where none of them needs a GPU."""
    engines = sorted(set(runtimes) - {"onnxruntime"})
    if not engines:
        return Machine()
    gpu, capability = gpu_at(0) or (None, None)
    absent: dict[Runtime, str] = {runtime: "this version of the server does not run engines" for runtime in engines}
    return Machine(absent=absent, gpu=gpu, compute_capability=capability)


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
