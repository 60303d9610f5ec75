"""One bounded queue and one worker thread for a model: items of one bucket run together, whoever sent them."""

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

from server.errors import InferenceFailed, MemoryExhausted, NotReady, QueueFull, ServiceFault, WorkerStopped
from server.memory import PoolExhausted
from server.metrics import ModelMetrics

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
MAX_RETRY_AFTER_S = 60


@dataclass(frozen=True)
class BatchLimits:
    """`capacity`: items admitted that do not run yet; `max_batch`: items per run; `max_wait_s`: wait to fill a run."""

    capacity: int
    max_batch: int
    max_wait_s: float = 0.0


@dataclass(frozen=True)
class Done(Generic[Result]):
    """An item's result, and how long it waited and ran."""

    value: Result
    queue_s: float
    infer_s: float


@dataclass(eq=False)
class _Job(Generic[Item, Result]):
    item: Item
    bucket: Hashable
    submitted: float
    future: "Future[Done[Result]]"


class Places(Generic[Item, Result]):
    """Places in the queue, held for one request from admission on."""

    def __init__(self, batcher: "Batcher[Item, Result]", count: int) -> None:
        self._batcher = batcher
        self.free = count

    def submit(self, item: Item) -> "Future[Done[Result]]":
        """Queue `item` on one of the places; cancelling the future before it runs drops the item."""
        assert self.free > 0, "every item has its place"
        return self._batcher._submit(self, item)


class Batcher(Generic[Item, Result]):
    """Runs items in batches of one bucket, oldest first, as soon as the worker is free.

    `run` takes a batch and returns a result per item, in order. A batch whose run fails is tried again item by item,
    so that no item suffers for its neighbour; one that its buffers' pool has no room for is run in halves. Whatever is
    not an Exception ends the worker: `alive` turns False and everything waiting fails.
    """

    def __init__(
        self,
        name: str,
        run: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        bucket: Callable[[Item], Hashable],
        limits: BatchLimits,
        metrics: ModelMetrics,
    ) -> None:
        self._name, self._execute, self._bucket = name, run, bucket
        self._limits, self._metrics = limits, metrics
        self._changed = threading.Condition()
        self._queue: deque[_Job[Item, Result]] = deque()
        self._reserved = 0
        self._closing = False
        self._stopped: Callable[[], ServiceFault] | None = None
        self._seconds_per_item = 0.0
        metrics.queue_depth.set(0)
        self._thread = threading.Thread(target=self._work, name=f"worker-{name}", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the worker takes and will finish items."""
        return self._thread.is_alive() and self._stopped is None

    @property
    def depth(self) -> int:
        """Items admitted that do not run yet."""
        return self._reserved + len(self._queue)

    @contextmanager
    def places(self, count: int) -> Iterator[Places[Item, Result]]:
        """Hold `count` places for a request; QueueFull at once where they are not there."""
        with self._changed:
            if self._closing:
                raise _stopping()
            self._refuse_when_stopped()
            if self.depth + count > self._limits.capacity:
                raise QueueFull(
                    f"{self.depth} of {self._limits.capacity} places of {self._name} are taken,"
                    f" this request needs {count}",
                    retry_after=self._retry_after(),
                )
            self._reserved += count
            self._show_depth()
        places = Places(self, count)
        try:
            yield places
        finally:
            with self._changed:
                self._reserved -= places.free
                places.free = 0
                self._show_depth()
                self._changed.notify_all()

    def close(self, timeout: float) -> None:
        """Admit no more, finish what is queued, and end the worker; what is left after `timeout` seconds fails."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout)
        if self._thread.is_alive():
            log.error("the worker of %s did not finish within %g s", self._name, timeout)
            self._stop(_stopping)

    def _submit(self, places: Places[Item, Result], item: Item) -> "Future[Done[Result]]":
        job = _Job[Item, Result](item, self._bucket(item), time.monotonic(), Future())
        with self._changed:
            self._refuse_when_stopped()
            places.free -= 1
            self._reserved -= 1
            self._queue.append(job)
            self._changed.notify_all()
        job.future.add_done_callback(lambda future: self._drop(job) if future.cancelled() else None)
        return job.future

    def _drop(self, job: _Job[Item, Result]) -> None:
        with self._changed:
            if job in self._queue:  # a cancelled item gives its place back at once, not when its turn comes
                self._queue.remove(job)
            self._show_depth()

    def _work(self) -> None:
        batch: list[_Job[Item, Result]] = []
        try:
            while batch := self._next_batch():
                self._run(batch)
        except BaseException as error:
            log.critical("the worker of %s has died", self._name, exc_info=error)
            self._stop(self._died, running=batch)

    def _next_batch(self) -> list[_Job[Item, Result]]:
        """The oldest item and those that may run with it; empty when the queue is closed and finished."""
        with self._changed:
            while not self._queue:
                if self._closing and not self._reserved:
                    return []
                self._changed.wait()
            jobs = self._collect()
            while jobs and len(jobs) < self._limits.max_batch and not self._closing:
                left = jobs[0].submitted + self._limits.max_wait_s - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
                jobs = self._collect()
            for job in jobs:
                self._queue.remove(job)
            self._show_depth()
            running = [job for job in jobs if job.future.set_running_or_notify_cancel()]
        return running or self._next_batch()

    def _collect(self) -> list[_Job[Item, Result]]:
        if not self._queue:  # all were cancelled while more were awaited
            return []
        bucket = self._queue[0].bucket
        return [job for job in self._queue if job.bucket == bucket][: self._limits.max_batch]

    def _run(self, batch: Sequence[_Job[Item, Result]]) -> None:
        """Run a batch, in parts where it must be."""
        started = time.monotonic()
        try:
            results = self._execute([job.item for job in batch])
            if len(results) != len(batch):
                raise RuntimeError(f"a run of {len(batch)} items gave {len(results)} results")
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
        infer_s = time.monotonic() - started
        self._seconds_per_item = 0.8 * (self._seconds_per_item or infer_s / len(batch)) + 0.2 * infer_s / len(batch)
        self._metrics.inferences.inc(len(batch))
        self._metrics.executions.inc()
        self._metrics.batch_size.observe(len(batch))
        self._metrics.infer_duration.observe(infer_s)
        for job, result in zip(batch, results, strict=True):
            queue_s = started - job.submitted
            self._metrics.queue_duration.observe(queue_s)
            job.future.set_result(Done(result, queue_s, infer_s))

    def _refuse_when_stopped(self) -> None:
        if self._stopped:
            raise self._stopped()

    def _stop(self, fault: Callable[[], ServiceFault], *, running: Sequence[_Job[Item, Result]] = ()) -> None:
        """Fail the queue, and those of `running` that have no result yet."""
        with self._changed:
            # First of all: whoever is told so below, and asks, finds the worker stopped.
            self._stopped = fault
            jobs = list(self._queue)
            self._queue.clear()
            self._show_depth()
        for job in running:
            if not job.future.done():
                job.future.set_exception(fault())
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(fault())

    def _died(self) -> WorkerStopped:
        return WorkerStopped(f"the worker of {self._name} has died")

    def _retry_after(self) -> int:
        """Whole seconds until what waits now has run, by the recent pace."""
        return min(MAX_RETRY_AFTER_S, max(1, math.ceil(self.depth * self._seconds_per_item)))

    def _show_depth(self) -> None:
        self._metrics.queue_depth.set(self.depth)


def _stopping() -> NotReady:
    return NotReady("the server is stopping")
