"""A stand-in for CUDA's binding in host memory: it copies bytes for real, and as late as a GPU may.

Work on a stream waits in a queue until someone waits for the stream or an event: a buffer that is read, reused or freed
too soon shows. Memory given back is overwritten first. `calls` has every call with its arguments.
"""

import ctypes
import itertools
import sys
import threading
import types
from collections import deque
from types import SimpleNamespace

GARBAGE = 0xA5


class FakeCuda:
    """The module `cuda.bindings.runtime`; `failing` names calls that fail, with their status, once each.

    `lost` is the status that everything fails with, 0 while all is well; `faulty` the one that the next work on a
    stream loses the device with, which is told to whoever waits for it.
    """

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, *, device_bytes=1 << 30):
        self.device_bytes = device_bytes
        self.calls, self.failing = [], {}
        self.lost = self.faulty = 0
        self.remembered = 0  # the status that CUDA remembers until it is asked
        self.memory = {}  # address -> (buffer, bytes, on the device)
        self.graveyard = []
        self.streams = {0: deque()}
        self.events = {}  # event -> the ticket that has to be done
        self.capturing = {}  # stream -> its recorded work
        self.graphs = {}
        self.done = set()
        self._numbers = itertools.count(1000)
        self._lock = threading.RLock()

    def __getattr__(self, name):
        implementation = getattr(type(self), f"_{name}", None)
        if implementation is None:
            raise AttributeError(f"the stand-in has no {name}")

        def call(*arguments):
            with self._lock:
                self.calls.append((name, *arguments))
                words = name in ("cudaGetErrorName", "cudaGetErrorString")
                if self.lost and not words:
                    return (self.lost, None)
                status = self.failing.pop(name, 0)
                if status:
                    if name == "cudaStreamEndCapture":  # it ends the capture even where there is no graph of it
                        self.capturing.pop(*arguments)
                    self.remembered = status
                    return (status, None)
                result = implementation(self, *arguments)
                if self.lost and not words:
                    return (self.lost, None)
                return result if isinstance(result, tuple) else (0, result)

        return call

    def names(self):
        return [call[0] for call in self.calls]

    @property
    def device_used(self):
        return sum(nbytes for _, nbytes, on_device in self.memory.values() if on_device)

    def enqueue(self, stream, work):
        """Work for the stream, as a kernel would be; recorded while the stream is captured."""
        if stream in self.capturing:
            self.capturing[stream].append(work)
        else:
            self.streams[stream].append((next(self._numbers), work))

    def fence(self, stream):
        """Do the stream's work."""
        queue = self.streams[stream]
        if queue and self.faulty:
            self.lost = self.faulty
            queue.clear()
        while queue:
            ticket, work = queue.popleft()
            work()
            self.done.add(ticket)

    def check(self, address, nbytes):
        """These bytes are within memory that is held."""
        held = any(start <= address and address + nbytes <= start + size for start, (_, size, _) in self.memory.items())
        assert held, f"{nbytes} bytes at {address:#x} are nobody's"

    def _cudaGetErrorName(self, status):
        known = {2: b"cudaErrorMemoryAllocation", 700: b"cudaErrorIllegalAddress"}
        return 0, known.get(int(status), b"cudaErrorSomething")

    def _cudaGetErrorString(self, status):
        return 0, {2: b"out of memory"}.get(int(status), b"something happened")

    def _cudaGetLastError(self):
        status, self.remembered = self.remembered, 0
        return (status,)

    def _cudaSetDevice(self, device):
        return (0,) if device == 0 else (101,)

    def _cudaMemGetInfo(self):
        return 0, self.device_bytes - self.device_used, self.device_bytes

    def _cudaStreamCreateWithFlags(self, flags):
        stream = next(self._numbers)
        self.streams[stream] = deque()
        return stream

    def _cudaStreamDestroy(self, stream):
        self.fence(stream)
        del self.streams[stream]
        return (0,)

    def _cudaStreamSynchronize(self, stream):
        assert stream not in self.capturing, "a captured stream is not waited for"
        self.fence(stream)
        return (0,)

    def _cudaEventCreateWithFlags(self, flags):
        event = next(self._numbers)
        self.events[event] = None
        return event

    def _cudaEventRecord(self, event, stream):
        assert stream not in self.capturing, "an event within a capture is another event"
        ticket = next(self._numbers)
        self.streams[stream].append((ticket, lambda: None))
        self.events[event] = (ticket, stream)
        return (0,)

    def _cudaStreamWaitEvent(self, stream, event, flags):
        assert stream not in self.capturing, "an event from outside a capture breaks it"
        awaited = self.events[event]
        self.enqueue(stream, lambda: self._reach(awaited))
        return (0,)

    def _cudaEventSynchronize(self, event):
        self._reach(self.events[event])
        return (0,)

    def _reach(self, awaited):
        if awaited is None or awaited[0] in self.done:
            return
        ticket, stream = awaited
        queue = self.streams[stream]
        while queue and ticket not in self.done:
            number, work = queue.popleft()
            work()
            self.done.add(number)

    def _cudaMemcpyAsync(self, target, source, nbytes, kind, stream):
        host, device = (source, target) if kind == 1 else (target, source)
        assert self._on_device(device), "the device's side of a copy is memory of the device"
        assert self._on_device(host) is False, "the host's side of a copy is page-locked"

        def copy():
            self.check(target, nbytes)
            self.check(source, nbytes)
            ctypes.memmove(target, source, nbytes)

        self.enqueue(stream, copy)
        return (0,)

    def _on_device(self, address):
        for start, (_, nbytes, on_device) in self.memory.items():
            if start <= address < start + nbytes:
                return on_device
        return None

    def _take(self, nbytes, *, on_device):
        buffer = (ctypes.c_uint8 * (nbytes + 255))()
        address = ctypes.addressof(buffer) + -ctypes.addressof(buffer) % 256
        ctypes.memset(address, GARBAGE, nbytes)
        self.memory[address] = (buffer, nbytes, on_device)
        return address

    def _give_back(self, address):
        _, nbytes, _ = memory = self.memory.pop(address)
        ctypes.memset(address, GARBAGE, nbytes)
        self.graveyard.append(memory)  # so that whoever still uses it reads garbage, and does no harm

    def _cudaHostAlloc(self, nbytes, flags):
        return self._take(nbytes, on_device=False)

    def _cudaFreeHost(self, address):
        for stream in self.streams:
            self.fence(stream)
        self._give_back(address)
        return (0,)

    def _cudaMallocAsync(self, nbytes, stream):
        if self.device_used + nbytes > self.device_bytes:
            self.fence(stream)  # what the stream gave back before is its own again
        if self.device_used + nbytes > self.device_bytes:
            self.remembered = 2
            return 2, None
        return self._take(nbytes, on_device=True)

    def _cudaFreeAsync(self, address, stream):
        assert address in self.memory, "memory is given back once"
        self.enqueue(stream, lambda: self._give_back(address))
        return (0,)

    def _cudaStreamBeginCapture(self, stream, mode):
        assert stream not in self.capturing
        self.capturing[stream] = []
        return (0,)

    def _cudaStreamEndCapture(self, stream):
        graph = next(self._numbers)
        self.graphs[graph] = self.capturing.pop(stream)
        return graph

    def _cudaGraphInstantiate(self, graph, flags):
        instance = next(self._numbers)
        self.graphs[instance] = self.graphs[graph]
        return instance

    def _cudaGraphDestroy(self, graph):
        del self.graphs[graph]
        return (0,)

    _cudaGraphExecDestroy = _cudaGraphDestroy

    def _cudaGraphLaunch(self, graph, stream):
        for work in self.graphs[graph]:
            self.enqueue(stream, work)
        return (0,)


def install(monkeypatch, **options):
    """Put a stand-in where the binding is imported from."""
    fake = FakeCuda(**options)
    for name in ("cuda", "cuda.bindings"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", fake)
    return fake
