"""Runs of text encoders: in parts where memory is short, and what goes wrong told as a fault of the service."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

from server.errors import MemoryExhausted, WorkerStopped
from server.memory.cuda import DeviceLost
from server.memory.pool import PoolExhausted

log = logging.getLogger(__name__)

Float32 = npt.NDArray[np.float32]


def in_halves(run: Callable[[Sequence[str]], Float32], texts: Sequence[str]) -> list[Float32]:
    """What `run` gives for each text, in order; without room for all in halves, PoolExhausted without room for one."""
    try:
        return list(run(texts))
    except PoolExhausted:
        if len(texts) < 2:
            raise
    half = len(texts) // 2
    return in_halves(run, texts[:half]) + in_halves(run, texts[half:])


@contextmanager
def told_as_faults(name: str, retry_after: Callable[[], int]) -> Iterator[None]:
    """Within it a run of the model `name` finds no memory as MemoryExhausted, and no GPU as WorkerStopped."""
    try:
        yield
    except PoolExhausted as error:
        log.warning("a text has no room on %s: %s", name, error)
        fault = f"memory for encoding a text with {name} is all in use"
        raise MemoryExhausted(fault, retry_after=retry_after()) from error
    except DeviceLost as error:
        raise WorkerStopped(f"the GPU that {name} runs on is lost") from error
