"""Handles of decoder processes, and of the process that forks them (`server.inference.decoder_process`)."""

import atexit
import itertools
import json
import mmap
import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from server.inference.decoder_process import MESSAGE_BYTES, NUMBER, TASK, memory_file
from server.inference.images import PreparedImage, Work

SUPPORTED = sys.platform == "linux"  # for memory files, and processes that end with their parent
# A decoder's own bound is on processor time; this one is for a process that gets none.
WAIT_S = 120.0
_ROOT = Path(__file__).parents[2]
# numpy without threads, which could not be forked. The C heap keeps memory for the next image, until a decoder returns
# it: to take it anew from the system is a twentieth of a photo's time.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
}
_STOPS = (signal.SIGINT, signal.SIGTERM)


class DecoderEnded(Exception):
    """The process ended by the signal `number`, or of itself (0), before it `began` to work on the image or later."""

    def __init__(self, number: int, *, began: bool) -> None:
        super().__init__(f"the decoder was ended by {signal.Signals(number).name if number else 'itself'}")
        self.number, self.began = number, began


class DecoderProcess:
    """A process that works on one image at a time; `kill` may be called from any thread."""

    def __init__(self, forks: "DecoderForks", number: int, tasks: socket.socket) -> None:
        self._forks, self._number, self._tasks = forks, number, tasks
        tasks.settimeout(WAIT_S)

    def ask(self, work: Work, allowance: int) -> tuple[dict[str, Any], PreparedImage | bytes | None]:
        """The answer to `work`, for which the process may take `allowance` bytes, and its result.

        DecoderEnded where the process ends: it is not to be used any more.
        """
        pickled = pickle.dumps(work._replace(data=b""))
        file, began = memory_file(pickled, work.data), False
        try:
            socket.send_fds(self._tasks, [TASK.pack(len(pickled), len(work.data), allowance)], [file])
            began = True
            message, descriptors, _, _ = socket.recv_fds(self._tasks, MESSAGE_BYTES, 1)
        except OSError:  # it ended earlier, or gave no answer
            message, descriptors = b"", []
        finally:
            os.close(file)
        if not message:
            raise DecoderEnded(self.end(), began=began)
        answer: dict[str, Any] = json.loads(message)
        return answer, _result(answer, descriptors[0]) if descriptors else None

    def kill(self) -> None:
        """End the process at once, whatever it does; the caller of `ask` gets DecoderEnded."""
        self._forks.kill(self._number)

    def end(self) -> int:
        """Kill the process if it still runs, and forget it; the signal that ended it, or 0."""
        self.kill()
        status = self._forks.wait(self._number)
        self._tasks.close()
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


class DecoderForks:
    """The process that forks decoders, started when it is needed. Methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        atexit.register(self.close)

    def start(self) -> None:
        """Start the process, without waiting until it is ready."""
        with self._lock:
            self._started()

    def fork(self) -> DecoderProcess:
        """A new decoder."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            number = next(self._numbers)
            message = [NUMBER.pack(b"F", number)]
            try:
                socket.send_fds(self._started(), message, [theirs.fileno()])
            except OSError:  # killed, as where memory was short
                self._closed()
                socket.send_fds(self._started(), message, [theirs.fileno()])
        return DecoderProcess(self, number, ours)

    def kill(self, number: int) -> None:
        """Kill the decoder of this number, which has not been waited for."""
        with self._lock, suppress(OSError):
            if self._control:
                self._control.send(NUMBER.pack(b"K", number))

    def wait(self, number: int) -> int:
        """The wait status of the decoder of this number, which has ended or been killed."""
        with self._lock, suppress(OSError, struct.error):
            if self._control:
                self._control.send(NUMBER.pack(b"W", number))
                return int(struct.unpack("<i", self._control.recv(4))[0])
        return int(signal.SIGKILL)  # its parent has ended, and it with that

    def cpu_seconds(self) -> float:
        """Processor time of the process and of all decoders that it has had, 0 where none runs."""
        process = self._process
        if process is None:
            return 0.0
        try:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        except OSError:  # it has ended, or the system keeps no such list
            children = []
        # Those that have ended count in their parent once it has waited for them.
        return _cpu_seconds(process.pid, ended=True) + sum(_cpu_seconds(int(child), ended=False) for child in children)

    def close(self) -> None:
        """End the process and all its decoders."""
        with self._lock:
            self._closed()

    def _started(self) -> socket.socket:
        if self._control is None:
            self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
            # Stop signals to a whole group, as a terminal sends them, are the server's business: they stay blocked in
            # the new process, which ends with the server.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
            try:
                with theirs:
                    self._process = subprocess.Popen(
                        [sys.executable, "-P", "-m", "server.inference.decoder_process", str(theirs.fileno())],
                        env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)},
                        pass_fds=[theirs.fileno()],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                    )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._control

    def _closed(self) -> None:
        if self._control and self._process:
            self._control.close()
            self._process.wait()
        self._control = self._process = None


def _result(answer: dict[str, Any], descriptor: int) -> PreparedImage | bytes:
    try:
        content = mmap.mmap(descriptor, 0, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)
    finally:
        os.close(descriptor)
    if "shape" not in answer:
        with content:
            return content[:]
    pixels = np.frombuffer(content, np.float32).reshape(answer["shape"])
    return PreparedImage(pixels, (answer["size"][0], answer["size"][1]), *answer["times"])


def _cpu_seconds(pid: int, *, ended: bool) -> float:
    """Processor time of a process, with that of its children that have `ended`; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11 : 15 if ended else 13])) / os.sysconf("SC_CLK_TCK")
