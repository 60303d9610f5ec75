"""CUDA's calls and memory, against a stand-in for the binding; and that the real one takes the arguments."""

import ctypes
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from server.memory.cuda import Cuda, CudaError
from tests.server.fake_cuda import GARBAGE, install

ROOT = Path(__file__).parents[3]


@pytest.fixture
def cuda(binding):
    return Cuda()


def filled(address, nbytes, value):
    ctypes.memset(address, value, nbytes)
    return address


def test_failed_call_is_named_with_its_reason(cuda, binding):
    binding.failing["cudaStreamSynchronize"] = 700
    with pytest.raises(CudaError, match="cudaStreamSynchronize failed: cudaErrorIllegalAddress, something happened"):
        cuda.synchronize(0)


def test_memory_that_is_not_there_is_a_memory_error(monkeypatch):
    install(monkeypatch, device_bytes=1 << 20)
    cuda = Cuda()
    with pytest.raises(MemoryError, match="cudaMallocAsync failed: cudaErrorMemoryAllocation"):
        cuda.allocate(2 << 20, 0)


def test_failure_is_not_left_for_the_next_who_asks(cuda, binding):
    binding.failing["cudaHostAlloc"] = 2
    with pytest.raises(MemoryError):
        cuda.allocate_pinned(100)
    assert binding.remembered == 0


def test_missing_binding_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    with pytest.raises(CudaError, match="pip install cuda-bindings"):
        Cuda()


def test_device_that_is_not_there_is_refused(binding):
    with pytest.raises(CudaError, match="cudaSetDevice failed"):
        Cuda(7)


def test_bytes_go_to_the_device_and_back_in_the_order_of_the_stream(cuda):
    stream = cuda.stream()
    there, back = filled(cuda.allocate_pinned(64), 64, 7), cuda.allocate_pinned(64)
    device = cuda.allocate(64, stream)
    cuda.copy_to_device(device, there, 64, stream)
    cuda.copy_to_host(back, device, 64, stream)
    assert ctypes.string_at(back, 64) == bytes([GARBAGE]) * 64, "nothing has waited for it"
    cuda.synchronize(stream)
    assert ctypes.string_at(back, 64) == bytes([7]) * 64


def test_stream_waits_for_the_event_of_another(cuda):
    first, second, event = cuda.stream(), cuda.stream(), cuda.event()
    source, target = filled(cuda.allocate_pinned(8), 8, 3), cuda.allocate_pinned(8)
    device = cuda.allocate(8, first)
    cuda.copy_to_device(device, source, 8, first)
    cuda.record(event, first)
    cuda.wait(second, event)
    cuda.copy_to_host(target, device, 8, second)
    cuda.synchronize(second)
    assert ctypes.string_at(target, 8) == bytes([3]) * 8


def test_graph_runs_what_was_captured_each_time_it_is_launched(cuda):
    stream = cuda.stream()
    source, device = cuda.allocate_pinned(8), cuda.allocate(8, stream)
    target = cuda.allocate_pinned(8)
    with cuda.captured(stream) as graphs:
        cuda.copy_to_device(device, source, 8, stream)
        cuda.copy_to_host(target, device, 8, stream)
    for value in (1, 2):
        filled(source, 8, value)
        cuda.launch(graphs[0], stream)
        cuda.synchronize(stream)
        assert ctypes.string_at(target, 8) == bytes([value]) * 8


def test_failed_capture_leaves_the_stream_usable_and_nothing_behind(cuda, binding):
    stream = cuda.stream()
    with pytest.raises(ValueError, match="no"), cuda.captured(stream):
        raise ValueError("no")
    assert (binding.capturing, binding.graphs) == ({}, {})
    binding.failing["cudaGraphInstantiate"] = 2
    with pytest.raises(MemoryError), cuda.captured(stream):
        pass
    assert (binding.capturing, binding.graphs) == ({}, {})


def test_real_binding_takes_the_arguments():
    """Without a GPU each call of the real binding fails as CUDA fails, not for what it was given."""
    real = pytest.importorskip("cuda.bindings.runtime", reason="needs the package cuda-bindings")
    if int(real.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("there is a GPU, on which these made-up addresses would do harm")
    cuda = Cuda.__new__(Cuda)
    cuda.device, cuda._binding = 0, real
    calls = [
        cuda.use, cuda.memory, cuda.stream, lambda: cuda.destroy_stream(5), lambda: cuda.synchronize(5), cuda.event,
        lambda: cuda.record(6, 5), lambda: cuda.wait(5, 6), lambda: cuda.wait_for(6),
        lambda: cuda.copy_to_device(4096, 8192, 8, 5), lambda: cuda.copy_to_host(8192, 4096, 8, 5),
        lambda: cuda.allocate_pinned(64), lambda: cuda.free_pinned(4096), lambda: cuda.allocate(64, 5),
        lambda: cuda.free(4096, 5), lambda: cuda.captured(5).__enter__(), lambda: cuda.launch(7, 5),
        lambda: cuda.destroy_graph(7), lambda: cuda._call("cudaStreamEndCapture", 5),
        lambda: cuda._call("cudaGraphInstantiate", 7, 0), lambda: cuda._call("cudaGraphDestroy", 7),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(CudaError, match=r"cuda\w+ failed: cudaError\w+, "):
            call()


def test_stand_in_has_what_the_real_binding_has():
    real = pytest.importorskip("cuda.bindings.runtime", reason="needs the package cuda-bindings")
    fake = importlib.import_module("tests.server.fake_cuda").FakeCuda
    names = [name.removeprefix("_") for name in vars(fake) if name.startswith(("_cuda", "cuda"))]
    assert [name for name in names if not hasattr(real, name)] == []
    assert int(real.cudaMemcpyKind.cudaMemcpyHostToDevice) == fake.cudaMemcpyKind.cudaMemcpyHostToDevice
    assert int(real.cudaMemcpyKind.cudaMemcpyDeviceToHost) == fake.cudaMemcpyKind.cudaMemcpyDeviceToHost


def test_serving_on_the_processor_loads_no_cuda():
    code = (
        "import sys, server.app\n"
        "from server.bundle import Bundle\n"
        "from server.registry.model_registry import BUNDLED\n"
        "Bundle(BUNDLED / 'clip-mini').embed_texts(['a dog'])\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('cuda', 'tensorrt', 'tensorrt_rtx')])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
