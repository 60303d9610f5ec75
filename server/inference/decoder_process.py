"""Process that forks decoders, each a process that works on one image after the other, within bounds.

`python -m server.inference.decoder_process FD`: on the socket FD come `b"F" + id` with the socket of a new decoder,
`b"K" + id` to kill it, and `b"W" + id` to wait for its end, answered with its wait status. The end of that socket ends
all. A decoder gets a Work in a memory file, and answers with JSON and, for a result, a memory file.
"""

import ctypes
import json
import math
import mmap
import os
import pickle
import resource
import select
import signal
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import AvifImagePlugin, Image

from server.contract import heic
from server.contract.image_file import ImageFileError
from server.inference.images import USUAL_BYTES, Work, draw_on, memory_bytes, opened, opening_bytes, prepare
from server.memory.process_resources import end_first

NUMBER = struct.Struct("<cQ")
TASK = struct.Struct("<QQQ")  # bytes of the pickled work, bytes of the image, bytes of memory that it may take
MESSAGE_BYTES = 64 * 1024
# Processor seconds for an image: a full-size one of the slowest format takes under half of them.
SECONDS, SECONDS_PER_PIXEL, SECONDS_PER_DRAWN_PIXEL, SECONDS_PER_MARK = 1.0, 150e-9, 450e-9, 1e-3
HEADER_BYTES = 32 * 2**20  # memory to open an image with, before its needs are known
IDLE_S = 1.0  # after which memory that the C heap keeps for the next image is returned
_PR_SET_PDEATHSIG = 1


def main(control: socket.socket) -> None:
    """Fork, kill and await decoders until `control` ends."""
    Image.init()  # registers Pillow's plugins, for which the first image would wait
    if heic.is_installed():
        heic.register()
    processes: dict[int, int] = {}
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, NUMBER.size, 1)
        if not message:
            break
        command, number = NUMBER.unpack(message)
        if command == b"F":
            pid = os.fork()
            if not pid:
                control.close()
                _decode(socket.socket(fileno=descriptors[0]))
            os.close(descriptors[0])
            processes[number] = pid
        elif command == b"W":
            _, status = os.waitpid(processes.pop(number), 0)
            control.send(struct.pack("<i", status))
        elif number in processes:  # else it has ended, and been waited for, since
            os.kill(processes[number], signal.SIGKILL)
    for pid in processes.values():
        os.kill(pid, signal.SIGKILL)


def _decode(tasks: socket.socket) -> None:
    """Work on images until `tasks` ends; never returns."""
    errors = os.dup(2)
    try:
        libc = ctypes.CDLL(None)
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        end_first()
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libtiff writes its own lines there
        AvifImagePlugin.DEFAULT_MAX_THREADS = 1
        _work(tasks, Bounds(data_bytes()), trim=getattr(libc, "malloc_trim", lambda _: None))
    except BaseException:
        os.write(errors, traceback.format_exc().encode())
        os._exit(1)
    os._exit(0)


def _work(tasks: socket.socket, bounds: "Bounds", *, trim: Callable[[int], object]) -> None:
    """Work on images one by one; memory returns to the system after a large one, and when none has come for a while."""
    tasks.settimeout(None)
    while True:
        if bounds.kept and not select.select([tasks], [], [], IDLE_S)[0]:
            trim(0)
            bounds.kept = False
        message, descriptors, _, _ = socket.recv_fds(tasks, TASK.size, 1)
        if not message:
            return
        pickled, size, allowance = TASK.unpack(message)
        work: Work = pickle.loads(os.pread(descriptors[0], pickled, 0))
        work = work._replace(data=os.pread(descriptors[0], size, pickled))
        os.close(descriptors[0])
        answer, content = bounds.run(work, allowance)
        if content is None:
            tasks.send(answer)
        else:
            socket.send_fds(tasks, [answer], [content])
            os.close(content)
        del work
        if allowance > USUAL_BYTES:
            trim(0)


class Bounds:
    """Bounds of a decoder on memory, of which it has `base` bytes itself, and on processor time."""

    def __init__(self, base: int) -> None:
        self._base = base
        _, self._most = resource.getrlimit(resource.RLIMIT_DATA)
        self.kept = False  # whether the C heap may keep memory of an image

    def run(self, work: Work, allowance: int) -> tuple[bytes, int | None]:
        """The answer to `work`, and its content in a memory file."""
        self.kept = True
        try:
            needed = opening_bytes(work)
            if needed > allowance:
                return _message(needs=needed), None
            self._limit(SECONDS, HEADER_BYTES + needed)
            image = opened(work)
            needed = memory_bytes(work, image)
            if needed > allowance:
                return _message(needs=needed), None
            pixels = image.width * image.height
            images = [image]  # so that it is freed once it is turned or resized
            del image
            if work.rules is None:
                seconds = SECONDS + SECONDS_PER_DRAWN_PIXEL * pixels + SECONDS_PER_MARK * len(work.marks)
                self._limit(seconds, HEADER_BYTES + needed)
                return _message(), memory_file(draw_on(work, images.pop()))
            self._limit(SECONDS + SECONDS_PER_PIXEL * pixels, HEADER_BYTES + needed)
            return _prepared(work, images)
        except ImageFileError as error:
            return _message(fault=type(error).__name__, detail=str(error)), None
        except Exception:
            return _message(error=traceback.format_exc()[-MESSAGE_BYTES // 8 :]), None
        finally:
            self._limit(0, None)

    def _limit(self, seconds: float, growth: int | None) -> None:
        """End this process by SIGPROF after so many processor seconds, 0 for never, and bound its memory."""
        signal.setitimer(signal.ITIMER_PROF, seconds)
        soft = self._most if growth is None else self._base + growth
        resource.setrlimit(resource.RLIMIT_DATA, (soft if self._most < 0 else min(soft, self._most), self._most))


def data_bytes() -> int:
    """Memory of this process that its limit (RLIMIT_DATA) counts."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[5]) * mmap.PAGESIZE


def _prepared(work: Work, images: list[Image.Image]) -> tuple[bytes, int]:
    """The answer with model input, which is written to the memory file as it is computed."""
    file = os.memfd_create("pixels")

    def empty(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
        size = math.prod(shape) * np.dtype(np.float32).itemsize
        os.ftruncate(file, size)
        return np.frombuffer(mmap.mmap(file, size), np.float32).reshape(shape)

    try:
        prepared = prepare(work, images.pop(), empty=empty)
    except BaseException:
        os.close(file)
        raise
    times = (prepared.started, prepared.decoded, prepared.ended)
    return _message(shape=prepared.pixels.shape, size=prepared.size, times=times), file


def memory_file(*parts: bytes | memoryview) -> int:
    """The descriptor of a new file in memory with these `parts`."""
    descriptor = os.memfd_create("image")
    for part in parts:
        rest = memoryview(part)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    return descriptor


def _message(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


if __name__ == "__main__":
    main(socket.socket(fileno=int(sys.argv[1])))
