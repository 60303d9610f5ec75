"""The heaps of a server: free memory goes back to the system, and garbage collection passes over what stays.

glibc keeps an arena for each thread and returns only what lies at an arena's end: after pictures and bodies of many
sizes a process would stay at its peak. Python's full collections go through all objects while every thread waits.
"""

import asyncio
import ctypes
import gc
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


def freeze_objects() -> None:
    """Free what is garbage now, and take all other objects out of garbage collection, until the next call.

    Modules, schemas and models are hundreds of thousands of objects: a collection that went through them held the event
    loop for 70 ms of processor time. What is frozen is still freed with its last reference, unless that is in a cycle.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


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
