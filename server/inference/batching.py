"""Dynamic batching: a bounded queue and a worker thread for each model; items of one bucket run together.

Clients take turns (`fair_queue.py`), and the last places of the queue are kept for those that have had the least of it
(`queue_shares.py`), so that one with a thousand images does not lock the others out.
"""

import logging
import math
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from server.errors import InferenceFailed, MemoryExhausted, NotReady, QueueFull, ServiceFault, WorkerStopped
from server.inference.fair_queue import FairQueue
from server.inference.progress import RunProgress
from server.inference.queue_shares import QueueShares
from server.memory.cuda import DeviceLost
from server.memory.pool import PoolExhausted
from server.request_context import Priority
from server.telemetry.metrics import ModelMetrics
from server.telemetry.tracing import Link

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
MAX_RETRY_AFTER_S = 60
# Recent runs of either way, of which the fastest counts, since other work on the machine only slows one down; how much
# faster several must be, since each then waits for all; items after which the slower way is tried again, or measured.
_RECENT, _FASTER, _TRIED_AFTER, _MEASURED_AFTER = 8, 1.05, 128, 8
_MAX_BUCKETS = 256


@dataclass(frozen=True)
class BatchLimits:
    """Bounds: `capacity` items that wait, `max_batch` items a run, `max_wait_s` seconds to wait for a run to fill."""

    capacity: int
    max_batch: int
    max_wait_s: float = 0.0


@dataclass(frozen=True)
class BatchedResult(Generic[Result]):
    """An item's result, and the times (`time.monotonic`) at which it was queued and its run started and ended."""

    value: Result
    queued: float
    started: float
    ended: float
    run: "BatchRun"


@dataclass(frozen=True)
class BatchRun:
    """A model run of `size` items of one bucket; `link` is its span, where it is traced."""

    size: int
    bucket: Hashable
    link: Link = None

    @property
    def shape(self) -> str:
        """The bucket as text: the sizes of an input, like 288x384x16."""
        return "x".join(map(str, self.bucket if isinstance(self.bucket, tuple) else (self.bucket,)))


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    item: Item
    bucket: Hashable
    client: str
    priority: Priority
    submitted: float
    future: "Future[BatchedResult[Result]]"


class Reservation(Generic[Item, Result]):
    """Places in the queue that one request holds from its admission on."""

    def __init__(self, batcher: "Batcher[Item, Result]", count: int, client: str, priority: Priority) -> None:
        self._batcher = batcher
        self.free, self.client, self.priority = count, client, priority

    def submit(self, item: Item) -> "Future[BatchedResult[Result]]":
        """Queue `item` in one of the places; cancelling the future before it runs drops the item."""
        assert self.free > 0, "every item has a place"
        return self._batcher._submit(self, item)


class _Pace:
    """Seconds per item of one bucket's recent runs: of single items, and of several."""

    def __init__(self) -> None:
        self._single, self._several = deque[float](maxlen=_RECENT), deque[float](maxlen=_RECENT)
        self._untried = 0  # items since the slower way was tried

    def add(self, count: int, seconds: float) -> None:
        """A run of `count` items."""
        (self._single if count == 1 else self._several).append(seconds / count)
        self._untried += count

    def together(self) -> bool:
        """True where several items that wait should run together: as long as that has been faster for each of them."""
        measured = self._single and self._several
        faster = not measured or _FASTER * min(self._several) <= min(self._single)
        slower = self._single if faster else self._several
        if self._untried < (_TRIED_AFTER if len(slower) == _RECENT else _MEASURED_AFTER):
            return faster
        self._untried = 0
        return not faster


class Batcher(Generic[Item, Result]):
    """Runs items in batches of one bucket, clients in turn, as soon as the worker is free.

    Where that has been no faster for each, as on CPUs that one item fills, items run alone.

    `run` takes a batch and returns a result per item, in order. A batch whose run fails is tried again item by item,
    so that no item fails because of another; one that the buffer pool has no room for is run in halves. A lost GPU, or
    an error that is not an Exception, ends the worker: `alive` turns False and everything waiting fails. `trace` is
    called after each run that succeeds, with the times at which it started and ended, before its results are set.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        bucket: Callable[[Item], Hashable],
        limits: BatchLimits,
        metrics: ModelMetrics,
        trace: Callable[[Sequence[Item], BatchRun, float, float], Link] = lambda *_: None,
    ) -> None:
        self._trace = trace
        self._name, self._execute, self._bucket = name, run, bucket
        self._limits, self._metrics = limits, metrics
        self._changed = threading.Condition()
        self._queue: FairQueue[_Job[Item, Result]] = FairQueue()
        self._reserved = 0
        self._shares = QueueShares(limits.capacity)
        self._running = 0
        self._closing = False
        self._stopped: Callable[[], ServiceFault] | None = None
        self._seconds_per_item = 0.0
        self._paces: dict[Hashable, _Pace] = {}
        self.progress = RunProgress()  # of the run in progress, which `run` may divide into steps
        metrics.queue_depth.set(0)
        self._thread = threading.Thread(target=self._work, name=f"worker-{name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True while the worker accepts items and will finish them."""
        return self._thread.is_alive() and self._stopped is None

    @property
    def finished(self) -> bool:
        """True once the worker thread has ended."""
        return not self._thread.is_alive()

    @property
    def depth(self) -> int:
        """Items that were admitted and do not run yet."""
        return self._reserved + len(self._queue)

    @property
    def retry_after(self) -> int:
        """Whole seconds until what waits now has run, at the recent pace."""
        with self._changed:
            return self._retry_after()

    @contextmanager
    def reserve(
        self, count: int, *, client: str = "", priority: Priority = "interactive"
    ) -> Iterator[Reservation[Item, Result]]:
        """Hold `count` places for a request of `client` ("": unknown); QueueFull where they are not free."""
        with self._changed:
            if self._closing:
                raise _stopping()
            self._reject_when_stopped()
            self._reject_when_full(count, client)
            self._reserved += count
            self._shares.take(client, count)
            self._show_depth()
        reservation = Reservation(self, count, client, priority)
        try:
            yield reservation
        finally:
            with self._changed:
                self._reserved -= reservation.free
                self._shares.give_back(client, reservation.free)
                reservation.free = 0
                self._show_depth()
                self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Admit no more, finish the queue and end the worker; what is left after `timeout` seconds fails."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.error("the worker of %s did not finish within %g s", self._name, timeout)
            self._stop(_stopping)

    def _submit(self, reservation: Reservation[Item, Result], item: Item) -> "Future[BatchedResult[Result]]":
        client, priority = reservation.client, reservation.priority
        job = _Job[Item, Result](item, self._bucket(item), client, priority, time.monotonic(), Future())
        with self._changed:
            self._reject_when_stopped()
            reservation.free -= 1
            self._reserved -= 1
            self._queue.add(job)
            self._changed.notify_all()
        # A future keeps its callbacks: one that held the job, which holds the future, would keep its pixels until
        # garbage collection. While there is something to drop, the queue holds the job.
        queued = weakref.ref(job)
        job.future.add_done_callback(lambda future: self._drop(queued()) if future.cancelled() else None)
        return job.future

    def _drop(self, job: _Job[Item, Result] | None) -> None:
        with self._changed:
            if job and self._queue.remove(job):  # its place is free at once, not when its turn comes
                self._shares.give_back(job.client, 1)
            self._show_depth()

    def _work(self) -> None:
        batch: list[_Job[Item, Result]] = []
        try:
            while batch := self._next_batch():
                self._run(batch)
                batch = []  # a waiting worker keeps no pixels
        except BaseException as error:
            log.critical("the worker of %s has died", self._name, exc_info=error)
            self._stop(self._died, running=batch)

    def _next_batch(self) -> list[_Job[Item, Result]]:
        """The item whose turn it is and those that may run with it; empty once closed and finished."""
        with self._changed:
            self._running = 0
            while not self._queue:
                if self._closing and not self._reserved:
                    return []
                self._changed.wait()
            most = self._limits.max_batch
            jobs = self._queue.pick(most)
            several = len(jobs) > 1 or self._limits.max_wait_s > 0
            if several and not self._pace(jobs[0].bucket).together():
                most, jobs = 1, jobs[:1]
            while jobs and len(jobs) < most and not self._closing:
                left = min(job.submitted for job in jobs) + self._limits.max_wait_s - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
                jobs = self._queue.pick(most)  # empty where all were cancelled
            self._queue.take(jobs)
            for job in jobs:
                self._shares.give_back(job.client, 1)
            self._show_depth()
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            self._running = len(running)
        return running or self._next_batch()

    def _pace(self, bucket: Hashable) -> _Pace:
        if bucket not in self._paces and len(self._paces) == _MAX_BUCKETS:
            self._paces.clear()
        return self._paces.setdefault(bucket, _Pace())

    def _run(self, batch: Sequence[_Job[Item, Result]]) -> None:
        """Run a batch, in parts where it fails or does not fit in memory."""
        started = time.monotonic()
        try:
            with self.progress.working():
                results = self._execute([job.item for job in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"a run of {len(batch)} items gave {len(results)} results")
        except DeviceLost:
            raise
        except PoolExhausted as error:
            self._run_in_halves(batch, error)
        except Exception as error:
            self._run_one_by_one(batch, error)
        else:
            self._finish(batch, results, started)

    def _run_one_by_one(self, batch: Sequence[_Job[Item, Result]], error: Exception) -> None:
        if len(batch) > 1:
            log.warning("a batch of %d on %s failed, trying each alone", len(batch), self._name)
            for job in batch:
                self._run([job])
            return
        log.error("a run on %s failed", self._name, exc_info=error)
        batch[0].future.set_exception(InferenceFailed(f"the run on {self._name} failed; the server's log has why"))

    def _run_in_halves(self, batch: Sequence[_Job[Item, Result]], error: PoolExhausted) -> None:
        log.warning("a batch of %d on %s has no room: %s", len(batch), self._name, error)
        if len(batch) > 1:
            half = len(batch) // 2
            self._run(batch[:half])
            self._run(batch[half:])
            return
        fault = MemoryExhausted(
            f"memory for running an image on {self._name} is all in use", retry_after=self._retry_after()
        )
        batch[0].future.set_exception(fault)

    def _finish(self, batch: Sequence[_Job[Item, Result]], results: Sequence[Result], started: float) -> None:
        ended = time.monotonic()
        infer_s = ended - started
        self._pace(batch[0].bucket).add(len(batch), infer_s)
        each = infer_s / len(batch)
        self._seconds_per_item = 0.8 * (self._seconds_per_item or each) + 0.2 * each
        self._metrics.inferences.inc(len(batch))
        self._metrics.executions.inc()
        self._metrics.batch_size.observe(len(batch))
        self._metrics.infer_duration.observe(infer_s)
        run = BatchRun(len(batch), batch[0].bucket)
        run = replace(run, link=self._trace([job.item for job in batch], run, started, ended))
        for job, result in zip(batch, results, strict=True):
            self._metrics.queue_duration.observe(started - job.submitted)
            job.future.set_result(BatchedResult(result, job.submitted, started, ended, run))

    def _reject_when_stopped(self) -> None:
        if self._stopped:
            raise self._stopped()
        if self.progress.hangs():
            raise WorkerStopped(f"a run on {self._name} hangs")

    def _stop(self, fault: Callable[[], ServiceFault], *, running: Sequence[_Job[Item, Result]] = ()) -> None:
        """Fail the queued jobs, and those of `running` that have no result yet."""
        with self._changed:
            # First: callers that the faults below wake find the worker stopped.
            self._stopped = fault
            jobs = self._queue.clear()
            self._show_depth()
        for job in running:
            if not job.future.done():
                job.future.set_exception(fault())
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(fault())

    def _died(self) -> WorkerStopped:
        return WorkerStopped(f"the worker of {self._name} has died")

    def _reject_when_full(self, count: int, client: str) -> None:
        free = self._limits.capacity - self.depth
        kept = self._shares.kept_from(client)
        if count > free - kept:
            keeping = f"; {kept} more are kept for clients that have had fewer" if kept else ""
            raise QueueFull(
                f"{self.depth} of {self._limits.capacity} places of {self._name} are taken, this request needs"
                f" {count}{keeping}",
                retry_after=self._retry_after(),
            )

    def _retry_after(self) -> int:
        """Seconds that an item has recently taken, times the items ahead."""
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil((self.depth + self._running) * self._seconds_per_item)))

    def _show_depth(self) -> None:
        self._metrics.queue_depth.set(self.depth)


def _stopping() -> NotReady:
    return NotReady("the server is stopping")
