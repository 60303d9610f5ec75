"""One arena for all of ONNX Runtime's sessions on a GPU: as large as the most demanding of them needs, not the sum.

Each session's own would keep the most that it ever used. Whoever uses a shared one has to be done with the GPU before
the next begins: it lends memory that another stream may still be working in (onnxruntime issue 32342).
"""

import logging

import onnxruntime

from server.runtimes.gpu import Gpu

log = logging.getLogger(__name__)

PROVIDER = "CUDAExecutionProvider"
_SAME_AS_REQUESTED = 1


def share_arena(gpu: Gpu, memory_bytes: int) -> bool:
    """Whether sessions of this GPU can share an arena of at most `memory_bytes` (0: no limit); made at the first call.

    Where the runtime makes none, the log has the reason, and sessions have arenas of their own.
    """
    if gpu.arena is None:
        gpu.arena = _made(gpu, memory_bytes)
    return gpu.arena


def _made(gpu: Gpu, memory_bytes: int) -> bool:
    kind, place = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    memory = onnxruntime.OrtMemoryInfo("Cuda", kind, gpu.ordinal, place)
    arena = onnxruntime.OrtArenaCfg({"max_mem": memory_bytes, "arena_extend_strategy": _SAME_AS_REQUESTED})
    try:
        onnxruntime.create_and_register_allocator_v2(PROVIDER, memory, {}, arena)
    except RuntimeError as error:
        log.warning("the graphs on %s have an arena each, not one for all: %s", gpu.name, error)
        return False
    return True
