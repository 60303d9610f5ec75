"""The share of a node that a replica has, as settings: Ray places by these figures, and holds no process to them."""

import math
from collections.abc import Mapping

from server.memory.cuda import Cuda
from server.settings import Settings

CPU, GPU, MEMORY = "CPU", "GPU", "memory"


def within(resources: Mapping[str, float], settings: Settings) -> Settings:
    """`settings` for an actor with these Ray resources; what the operator has set stays.

    Threads follow the CPUs; the memory budget the `memory` (bytes), without which each replica of a node would plan
    with all of it; the GPU's budget the share of it. Without a share of a GPU a replica takes none.
    """
    cpus, gpus = max(1, math.ceil(resources.get(CPU, 0))), resources.get(GPU, 0)
    shares: dict[str, object] = {"threads": cpus, "decode_threads": cpus}
    if MEMORY in resources:
        shares["memory_limit_bytes"] = int(resources[MEMORY])
    if 0 < gpus < 1:
        shares["gpu_memory_bytes"] = int(gpus * gpu_bytes())
    if not gpus and settings.device == "auto":
        shares["device"] = "cpu"
    return settings.model_copy(
        update={name: value for name, value in shares.items() if name == "device" or not getattr(settings, name)}
    )


def gpu_bytes() -> int:
    """Memory of the first GPU that this process sees."""
    return Cuda().memory()[1]
