"""A stand-in for TensorRT, either flavour, on the stand-in of CUDA: its engines compute with ONNX Runtime.

An engine's file is JSON that names a graph. Runs wait on their stream, read and write the memory they were bound to,
and spoil the activations they were given. What TensorRT forbids fails here: shapes outside the profile, capturing a
context that has not run at its shapes, changing the shapes under a captured graph, too little memory for activations.
"""

import ctypes
import json
import sys
import types
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from onnxruntime import InferenceSession, SessionOptions

TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64, "tensor(bool)": np.bool_}
ACTIVATION_BYTES = 10_000


def write_engine(file, graph, profiles, **options):
    """Write an engine: `profiles` as in its record; `options`: "activations", "types" of tensors, "unknown"."""
    file.write_text(json.dumps({"graph": str(graph), "profiles": profiles, **options}))


class FakeTrt(types.ModuleType):
    """The module; `contexts` are those made, `fail_contexts` how many more cannot be."""

    TensorIOMode = SimpleNamespace(INPUT=1, OUTPUT=2)
    TensorLocation = SimpleNamespace(DEVICE=0, HOST=1)
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED=2)
    EngineValidity = SimpleNamespace(VALID=0, INVALID=2)

    class ILogger:
        ERROR = 1

        def __init__(self):
            pass

    def __init__(self, name, binding, *, version, rtx):
        super().__init__(name)
        self.__version__, self.rtx, self.binding = version, rtx, binding
        self.contexts, self.context_limit = [], 100
        self.fail_run = None
        if rtx:
            self.CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE=1)

    @staticmethod
    def nptype(kind):
        if kind == "bf16":
            raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")
        return kind

    def Runtime(self, logger):
        return _Runtime(self, logger) if not self.rtx else _RtxRuntime(self, logger)


class _Runtime:
    def __init__(self, trt, logger):
        self.trt, self.logger = trt, logger

    def deserialize_cuda_engine(self, data):
        try:
            described = json.loads(data)
        except ValueError:
            self.logger.log(self.trt.ILogger.ERROR, "magicTag failed\n")
            return None
        return _Engine(self.trt, self.logger, described)


class _RtxRuntime(_Runtime):
    def get_engine_validity(self, data):
        return (0, 0) if data.startswith(b"{") else (2, 32)


class _Engine:
    def __init__(self, trt, logger, described):
        self.trt, self.logger, self.described = trt, logger, described
        options = SessionOptions()
        options.intra_op_num_threads = 1  # others would wait busily
        self.session = InferenceSession(str(Path(described["graph"])), options, providers=["CPUExecutionProvider"])
        self.inputs = {entry.name: entry for entry in self.session.get_inputs()}
        self.outputs = {entry.name: entry for entry in self.session.get_outputs()}
        self.names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self.names)
        self.output_shapes = {}  # of each output, by the shapes of the inputs
        self.profiles = described["profiles"]
        self.num_optimization_profiles = len(self.profiles)

    def get_tensor_name(self, index):
        return self.names[index]

    def get_tensor_location(self, name):
        return 1 if name in self.described.get("on_host", ()) else 0

    def get_tensor_dtype(self, name):
        odd = self.described.get("types", {}).get(name)
        if odd:
            return odd if odd == "bf16" else np.dtype(odd)
        return np.dtype(TYPES[(self.inputs | self.outputs)[name].type])

    def get_tensor_mode(self, name):
        return 1 if name in self.inputs else 2

    def get_tensor_profile_shape(self, name, profile):
        spans = self.profiles[profile]
        shape = self.inputs[name].shape
        return [[spans[size][place] if isinstance(size, str) else size for size in shape] for place in range(3)]

    def get_device_memory_size_for_profile_v2(self, profile):
        return self.described.get("activations", ACTIVATION_BYTES) * (profile + 1)

    def create_runtime_config(self):
        config = SimpleNamespace(strategy=None, cuda_graph_strategy=0)
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(config, "strategy", strategy)
        return config

    def create_execution_context(self, given):
        config = given if self.trt.rtx else SimpleNamespace(strategy=given, cuda_graph_strategy=None)
        assert config.strategy == 2, "contexts are given their memory"
        if len(self.trt.contexts) >= self.trt.context_limit:
            self.logger.log(self.trt.ILogger.ERROR, "Cuda Runtime (out of memory)\n")
            return None
        context = _Context(self, config)
        self.trt.contexts.append(context)
        return context


class _Context:
    def __init__(self, engine, config):
        self.engine, self.config = engine, config
        self.binding = engine.trt.binding
        self.profile, self.shapes, self.addresses = 0, {}, {}
        self.memory = None
        self.ran_at = None  # the shapes of the last run
        self.changes = 0
        self.log = []

    def set_optimization_profile_async(self, profile, stream):
        self.log.append(("profile", profile))
        self.profile, self.shapes, self.changes = profile, {}, self.changes + 1
        return True

    def set_input_shape(self, name, shape):
        self.log.append(("shape", name, shape))
        least, _, largest = self.engine.get_tensor_profile_shape(name, self.profile)
        if any(not a <= b <= c for a, b, c in zip(least, shape, largest, strict=True)):
            return False
        self.shapes[name], self.changes = shape, self.changes + 1
        return True

    def infer_shapes(self):
        return [name for name in self.engine.inputs if name not in self.shapes]

    def get_tensor_shape(self, name):
        if name in self.engine.described.get("unknown", ()):
            return [-1, 4]
        known, shapes = self.engine.output_shapes, tuple(self.shapes[name] for name in self.engine.inputs)
        if shapes not in known:
            kinds = [TYPES[entry.type] for entry in self.engine.inputs.values()]
            feeds = dict(zip(self.engine.inputs, map(np.zeros, shapes, kinds), strict=True))
            results = self.engine.session.run(None, feeds)
            known[shapes] = dict(zip(self.engine.outputs, (result.shape for result in results), strict=True))
        return known[shapes][name]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_device_memory(self, address, nbytes):
        self.memory = address, nbytes

    def execute_async_v3(self, stream):
        if self.engine.trt.fail_run and self.engine.trt.fail_run(self, stream):
            self.engine.logger.log(self.engine.trt.ILogger.ERROR, self.engine.trt.reason)
            return False
        captured = stream in self.binding.capturing
        assert set(self.addresses) == set(self.engine.names)
        assert self.memory[1] >= self.engine.get_device_memory_size_for_profile_v2(self.profile)
        if captured:
            assert self.ran_at == self.shapes, "a context runs at its shapes before it is captured"
        self.ran_at = dict(self.shapes)
        shapes, addresses, memory, changes = dict(self.shapes), dict(self.addresses), self.memory, self.changes
        outputs = {name: self.get_tensor_shape(name) for name in self.engine.outputs}
        self.binding.calls.append(("execute", self, stream, captured))

        def work():
            if captured:
                assert self.changes == changes, "a captured context keeps its shapes"
            self._compute(shapes, addresses, outputs, memory)

        self.binding.enqueue(stream, work)
        return True

    def _compute(self, shapes, addresses, outputs, memory):
        self.binding.check(*memory)
        ctypes.memset(memory[0], 0x11, memory[1])
        feeds = {}
        for name, shape in shapes.items():
            kind = self.engine.get_tensor_dtype(name)
            feeds[name] = self._view(addresses[name], shape, kind).astype(TYPES[self.engine.inputs[name].type])
        for name, result in zip(self.engine.outputs, self.engine.session.run(None, feeds), strict=True):
            view = self._view(addresses[name], outputs[name], self.engine.get_tensor_dtype(name))
            view[...] = result

    def _view(self, address, shape, kind):
        nbytes = int(np.prod(shape)) * kind.itemsize
        self.binding.check(address, nbytes)
        memory = (ctypes.c_uint8 * nbytes).from_address(address)
        return np.frombuffer(memory, kind).reshape(shape)


def install_trt(monkeypatch, binding, *, version="10.14.1", rtx=False):
    """Put a stand-in where the module is imported from."""
    name = "tensorrt_rtx" if rtx else "tensorrt"
    fake = FakeTrt(name, binding, version=version, rtx=rtx)
    monkeypatch.setitem(sys.modules, name, fake)
    return fake
