"""A stand-in for ONNX Runtime's CUDA provider: the real runtime on the processor, reading the stand-in's memory."""

from types import SimpleNamespace

import numpy as np
import onnxruntime

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class Provider:
    """What the runtime offers; `sessions` are those on the GPU. `loads`: whether the provider's libraries are there."""

    def __init__(self, monkeypatch, binding, *, loads=True, no_arena=False):
        self.binding, self.loads, self.no_arena = binding, loads, no_arena
        self.sessions = []
        self.before_run = self.after_run = lambda: None
        self.real = onnxruntime.InferenceSession
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
        monkeypatch.setattr(onnxruntime, "InferenceSession", self.open)
        self.arenas = []
        monkeypatch.setattr(onnxruntime, "create_and_register_allocator_v2", self.register)

    def register(self, provider, memory, options, arena):
        if self.no_arena:
            raise RuntimeError("there is no arena to share")
        assert (provider, memory.name, options) == (CUDA, "Cuda", {})
        self.arenas.append((memory.device_id, arena.max_mem, arena.arena_extend_strategy))

    def open(self, file, options, providers):
        if providers == [CPU]:
            return self.real(file, options, providers=providers)
        (name, given), last = providers
        assert (name, last) == (CUDA, CPU)
        assert all(isinstance(value, str) for value in given.values()), "the runtime takes strings"
        session = _Session(self, self.real(file, options, providers=[CPU]), given, options)
        self.sessions.append(session)
        return session


class _Session:
    def __init__(self, provider, real, given, options):
        self.provider, self.real, self.given, self.options = provider, real, given, options
        self.bound = []
        self.get_inputs, self.get_outputs = real.get_inputs, real.get_outputs

    def get_providers(self):
        return [CUDA, CPU] if self.provider.loads else [CPU]

    def io_binding(self):
        inputs, outputs = [], []
        self.bound.append(inputs)
        return SimpleNamespace(
            inputs=inputs,
            outputs=outputs,
            bind_input=lambda *given: inputs.append(given),
            bind_output=lambda *given: outputs.append(given),
        )

    def run_with_iobinding(self, binding):
        self.provider.before_run()
        fake = self.provider.binding
        fake.fence(int(self.given["user_compute_stream"]))
        real = self.real.io_binding()
        for name, kind, device, dtype, shape, address in binding.inputs:
            assert (kind, device) == ("cuda", int(self.given["device_id"]))
            fake.check(address, int(np.prod(shape)) * np.dtype(dtype).itemsize)
            real.bind_input(name, "cpu", 0, dtype, shape, address)
        for name, kind in binding.outputs:
            real.bind_output(name, kind)
        self.real.run_with_iobinding(real)
        self.provider.after_run()
        binding.copy_outputs_to_cpu = real.copy_outputs_to_cpu
