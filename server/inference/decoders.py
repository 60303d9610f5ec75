"""Decoders of images: threads of this process, or processes that are killed where an image takes too much."""

import asyncio
import logging
import signal
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from server.contract.image_file import ImageFileError, OversizedPicture, UnsupportedFile
from server.errors import BrokenImage, Fault, ImageTooLarge, MemoryExhausted, NotReady, UnsupportedImage
from server.inference.decoder_forks import DecoderEnded, DecoderForks, DecoderProcess
from server.inference.fair_queue import FairSemaphore
from server.inference.images import USUAL_BYTES, PreparedImage, Work, draw_on, opened, prepare
from server.memory.process_resources import memory_limit
from server.request_context import RequestContext
from server.settings import Settings

log = logging.getLogger(__name__)

# One image at a time may take more than USUAL_BYTES, up to so many for each pixel that is accepted.
MOST_BYTES_PER_PIXEL = 10
_FAULTS: dict[str, type[Fault]] = {UnsupportedFile.__name__: UnsupportedImage, OversizedPicture.__name__: ImageTooLarge}

# After its request is cancelled an image may still be finished: nearly all are, and a new process would take longer.
GRACE_S = 0.05

FORKS = DecoderForks()


class Decoders(Protocol):
    """Place where images are decoded."""

    def start(self) -> None:
        """Prepare for the first image."""

    def close(self) -> None:
        """End what was started; work in progress fails."""

    async def run(self, work: Work, context: RequestContext) -> PreparedImage | bytes:
        """Model input, or a drawing as PNG; a Fault where the image is refused. Clients take turns."""


class ThreadDecoders:
    """Threads of this process: nothing ends the work on an image before it is done."""

    def __init__(self, settings: Settings) -> None:
        self._threads = ThreadPoolExecutor(settings.pool_threads, thread_name_prefix="images")
        self._places = FairSemaphore(2 * settings.pool_threads)  # half run, half are queued for when a thread is free

    def start(self) -> None:
        """Nothing: threads start when they are needed."""

    def close(self) -> None:
        """End the threads once their work is done."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Work, context: RequestContext) -> PreparedImage | bytes:
        """See Decoders."""
        async with self._places.slot(client=context.client, priority=context.priority):
            return await asyncio.wrap_future(self._threads.submit(_run, work))


class ProcessDecoders:
    """Processes with a bound on memory and processor time; one is killed when its request is cancelled or late.

    Images that take more than USUAL_BYTES are decoded one at a time, beside the others: memory stays within what that
    one may take and USUAL_BYTES for each place. Nobody's slow images take the places of all.
    """

    def __init__(self, settings: Settings) -> None:
        places = settings.pool_threads
        self._most = max(USUAL_BYTES, MOST_BYTES_PER_PIXEL * settings.max_image_pixels)
        limit = settings.memory_limit_bytes or memory_limit()
        if limit is not None:
            places = max(1, min(places, limit // 5 // USUAL_BYTES))
            self._most = max(USUAL_BYTES, min(self._most, limit // 2))
        # One client may hold `places`, and leaves some to others, since a slow image holds its own for seconds.
        usual = max(2, 2 * places - 1)
        self._usual, self._large = FairSemaphore(usual, leave_room=True), FairSemaphore(1)
        self._count = usual + 1  # a large image leaves the places to the others
        self._threads = ThreadPoolExecutor(self._count, thread_name_prefix="decoders")
        self._idle: deque[DecoderProcess] = deque()
        self._jobs: set[_Job] = set()
        self._closed = False

    def start(self) -> None:
        """Fork the processes, for which the first images would wait."""
        FORKS.start()
        self._idle.extend(FORKS.fork() for _ in range(self._count))

    def close(self) -> None:
        """Kill the processes, whatever they do."""
        self._closed = True
        for job in self._jobs.copy():
            job.cancel()
        self._threads.shutdown(cancel_futures=True)
        while self._idle:
            self._idle.pop().end()

    async def run(self, work: Work, context: RequestContext) -> PreparedImage | bytes:
        """See Decoders."""
        async with self._usual.slot(client=context.client, priority=context.priority):
            result = await self._submit(work, USUAL_BYTES)
        while isinstance(result, int):  # twice for a picture that needs more once it is open than to be opened
            if result > self._most:
                raise ImageTooLarge(
                    f"{work.name} would take {result / 2**20:.0f} MiB to decode, at most"
                    f" {self._most / 2**20:.0f} MiB are given to one: send a smaller picture, or another format"
                )
            async with self._large.slot(client=context.client, priority=context.priority):
                result = await self._submit(work, result)
        return result

    async def _submit(self, work: Work, allowance: int) -> PreparedImage | bytes | int:
        """The result, or the bytes of memory that it takes where these are more than `allowance`."""
        if self._closed:
            raise NotReady("the server is stopping")
        job = _Job()
        try:
            return await asyncio.wrap_future(self._threads.submit(self._ask, job, work, allowance))
        except asyncio.CancelledError:
            asyncio.get_running_loop().call_later(GRACE_S, job.cancel)
            raise

    def _ask(self, job: "_Job", work: Work, allowance: int) -> PreparedImage | bytes | int:
        answer, result = self._answer(job, work, allowance)
        if "error" in answer:
            raise RuntimeError(f"a decoder failed:\n{answer['error']}")
        if "fault" in answer:
            raise _FAULTS.get(answer["fault"], BrokenImage)(answer["detail"])
        return int(answer["needs"]) if result is None else result

    def _answer(self, job: "_Job", work: Work, allowance: int) -> tuple[dict[str, Any], PreparedImage | bytes | None]:
        self._jobs.add(job)
        try:
            while True:
                try:
                    process = self._idle.pop()
                except IndexError:
                    process = FORKS.fork()
                try:
                    job.begin(process, kill=self._closed)
                    answer = process.ask(work, allowance)
                except DecoderEnded as ended:
                    if job.killed:
                        raise NotReady("the request was cancelled, or the server is stopping") from None
                    if ended.began:
                        raise _fault_of_end(work.name, ended.number) from None
                except BaseException:  # as without descriptors: nobody knows what the process still answers
                    process.end()
                    raise
                else:
                    job.end()
                    self._idle.append(process)
                    return answer
        finally:
            job.end()
            self._jobs.discard(job)


class _Job:
    """Work of a thread, and the process that is killed with it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: DecoderProcess | None = None
        self.killed = False

    def begin(self, process: DecoderProcess, *, kill: bool) -> None:
        with self._lock:
            self._process = process
        if kill:
            self.cancel()

    def end(self) -> None:
        with self._lock:
            self._process = None

    def cancel(self) -> None:
        with self._lock:
            if self._process:
                self.killed = True
                self._process.kill()


def _run(work: Work) -> PreparedImage | bytes:
    try:
        image = opened(work)
        return draw_on(work, image) if work.rules is None else prepare(work, image)
    except ImageFileError as error:
        raise _FAULTS.get(type(error).__name__, BrokenImage)(str(error)) from error


def _fault_of_end(name: str, number: int) -> Fault:
    """The fault of an image whose process was ended by a signal."""
    log.warning("a decoder was ended by signal %d", number)
    if number == signal.SIGPROF:
        return ImageTooLarge(f"{name} takes too long to decode for its size: save it anew, as an ordinary JPEG or PNG")
    if number == signal.SIGKILL:
        return MemoryExhausted(f"the process that decoded {name} was killed: memory is short", retry_after=1)
    return BrokenImage(f"{name} cannot be decoded: it ended the process that tried")
