"""The C heap of a server: few arenas, and memory that a peak left free goes back to the system.

glibc keeps an arena for each thread and returns only what lies at an arena's end: after pictures and bodies of many
sizes a process would stay at its peak.
"""

import asyncio
import ctypes
import os

from server.memory.process_resources import resident_bytes, return_free_memory

ARENAS = 2
TRIM_EVERY_S = 5.0
TRIM_ABOVE_BYTES = 64 * 2**20  # above the least that the process has had
_M_ARENA_MAX = -8  # malloc.h


def limit_arenas() -> None:
    """Let threads that start from now on share ARENAS, unless the environment says how many; glibc only."""
    if "MALLOC_ARENA_MAX" in os.environ:
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, ARENAS)


async def trim_for_ever() -> None:
    """Return free memory every TRIM_EVERY_S, in a thread, while the process holds more than it needs at rest."""
    least = await asyncio.to_thread(resident_bytes)
    while least is not None:
        await asyncio.sleep(TRIM_EVERY_S)
        held = await asyncio.to_thread(resident_bytes)
        if held is not None and held > least + TRIM_ABOVE_BYTES:
            await asyncio.to_thread(return_free_memory)
            held = await asyncio.to_thread(resident_bytes)
        least = min(least, held or least)
