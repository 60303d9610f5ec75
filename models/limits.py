"""Bound on building a model from a configuration: 10^9 layers end once they are more than the weights could fill."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from models import UnknownCheckpoint

# One stored tensor may fill several of a model's: a packed projection has three of them.
_PER_TENSOR, _AT_LEAST = 8, 1000


@contextmanager
def bounded_by(tensors: int) -> Iterator[None]:
    """Refuse, as UnknownCheckpoint, to build models of far more parameters than there are stored tensors."""
    most, count, own = _PER_TENSOR * tensors + _AT_LEAST, 0, threading.get_ident()

    def counted(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal count
        if threading.get_ident() != own:
            return
        count += 1
        if count > most:
            raise UnknownCheckpoint(f"its configuration asks for more than {most} tensors, the weights have {tensors}")

    handle = register_module_parameter_registration_hook(counted)
    try:
        yield
    finally:
        handle.remove()
