"""Protocol of a runtime: a session takes and returns named numpy arrays."""

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
        """Names of the tensors it takes."""

    @property
    def provider(self) -> str:
        """Name of the ONNX Runtime provider, or of the TensorRT, that runs it."""

    @property
    def gpu(self) -> Gpu | None:
        """GPU that it runs on, if it does."""

    @property
    def fallback(self) -> str | None:
        """Reason why it runs on the CPU although a GPU was asked for."""

    @property
    def activation_bytes(self) -> int:
        """Scratch memory that an engine uses of the block shared on its GPU; 0 for a graph."""

    def run(self, tensors: Tensors) -> dict[str, npt.NDArray[np.float32]]:
        """Run on those of `tensors` that it takes; returns the outputs by name."""
