"""ONNX Runtime on the CPU."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime

from server.contract.manifest import BundleError
from server.runtimes.base import Tensors


class OrtSession:
    """An ONNX graph in ONNX Runtime; `threads` 0 lets the runtime choose."""

    def __init__(self, file: Path, *, threads: int = 0) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # Shapes vary from request to request: a pattern would be kept for each (onnxruntime issues 13500, 22297), and
        # the arena would keep the most it ever held. So it gives memory back after each run; without it runs take a
        # third more time.
        options.enable_mem_pattern = False
        self._run_options = onnxruntime.RunOptions()
        self._run_options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        # Waiting threads sleep: spinning would take the cores that decode and preprocess the next batch.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime raises its own classes, derived from Exception alone
            raise BundleError(f"{file} cannot be loaded by ONNX Runtime {onnxruntime.__version__}: {error}") from error
        self._inputs = tuple(entry.name for entry in self._session.get_inputs())
        self._outputs = [entry.name for entry in self._session.get_outputs()]

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._inputs

    def run(self, tensors: Tensors) -> dict[str, npt.NDArray[np.float32]]:
        feeds = {name: tensors[name] for name in self._inputs}
        results = self._session.run(self._outputs, feeds, self._run_options)
        return dict(zip(self._outputs, results, strict=True))
