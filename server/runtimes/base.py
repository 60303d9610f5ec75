"""What every runtime offers: a session that takes and returns named numpy arrays."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt

from server.runtimes.gpu import Gpu

Tensors = Mapping[str, npt.NDArray[np.generic]]


class Session(Protocol):
    """One loaded artefact; `run` may be called from several threads."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the tensors it takes."""

    @property
    def provider(self) -> str:
        """What runs it: ONNX Runtime's name of it, or the TensorRT."""

    @property
    def gpu(self) -> Gpu | None:
        """The GPU that it runs on, if it does."""

    @property
    def fallback(self) -> str | None:
        """Why it runs on the processor although a GPU was asked for."""

    @property
    def activation_bytes(self) -> int:
        """What it computes in of the block that the engines of a GPU share; 0 where it is no engine."""

    def run(self, tensors: Tensors) -> dict[str, npt.NDArray[np.float32]]:
        """Run on those of `tensors` that it takes; the outputs by name."""
