"""Workers that label pictures in processes of their own, any of which may end at any time."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from openset.answerer import NoAnswers
from openset.label.results_log import PictureResult
from openset.sources import MediaFile

T = TypeVar("T")
# A process takes all its pictures down with it. So the second try is alone, and tells which of them it was.
TRIES = 2
STARTS = 3  # in a row that may fail before the job does
WITHIN_S = 600.0  # without any worker that is ready the job ends, and may go on later


class WorkerEnded(Exception):
    """A worker's process, or its machine, has ended; the message says how."""


class WorkerModel(NamedTuple):
    """The model of a worker."""

    name: str
    weights_sha256: str


class Worker(Protocol):
    """A process with a model, which threads may share; its methods raise WorkerEnded or NoAnswers."""

    def ready(self) -> WorkerModel:
        """Wait until it has loaded its model."""

    def label(self, picture: MediaFile) -> PictureResult:
        """Find what the job asks for."""

    def stop(self) -> None:
        """End the process, if it still runs."""


@dataclass(eq=False)
class _Seat:
    """A place for a worker, `busy` with so many pictures, or with one `alone`."""

    worker: Worker | None = None
    busy: int = 0
    alone: bool = False


class WorkerPool:
    """A detector of `count` workers, each with up to `parallel` pictures at a time; lost ones are replaced.

    It opens once the first is ready: `model` is what all must have, since rows of two models would be mixed
    otherwise. A picture in whose two tries the process ended, the second time with no other picture in it, is a
    result with an `error`.
    """

    def __init__(self, start: Callable[[], Worker], *, count: int, parallel: int, within_s: float = WITHIN_S) -> None:
        self._start, self._parallel, self._within_s = start, parallel, within_s
        self._changed = threading.Condition()
        self._seats = [_Seat() for _ in range(count)]
        self._model: WorkerModel | None = None
        self._failure: NoAnswers | None = None
        self._waiting_alone = 0
        self._closed = False
        for seat in self._seats:
            self._fill(seat)
        try:
            with self._changed:
                self._model = self._await(lambda: self._model)
        except BaseException:
            self.close()
            raise

    @property
    def ahead(self) -> int:
        """Number of pictures to ask for at a time: as many wait as are worked at, for while lost ones are repeated."""
        return 2 * len(self._seats) * self._parallel

    @property
    def model(self) -> WorkerModel:
        """The model that all workers have."""
        assert self._model is not None, "the pool opens with it"
        return self._model

    def label(self, picture: MediaFile) -> PictureResult:
        """Find what the job asks for, with another worker where one ends; NoAnswers where none can."""
        for number in range(TRIES):
            seat, worker = self._take(alone=number > 0)
            try:
                return worker.label(picture)
            except WorkerEnded as error:
                how = str(error).splitlines()[0]
                self._replace(seat, worker)
            finally:
                self._give_back(seat)
        return PictureResult(image=picture.name, error=f"it ended the process that read it, {TRIES} times: {how}")

    def close(self) -> None:
        """End all workers."""
        with self._changed:
            self._closed = True
            workers = [seat.worker for seat in self._seats if seat.worker]
            self._changed.notify_all()
        for worker in workers:
            worker.stop()

    def _take(self, *, alone: bool) -> tuple[_Seat, Worker]:
        with self._changed:
            self._waiting_alone += alone
            try:
                seat = self._await(self._empty_seat if alone else self._free_seat)
            finally:
                self._waiting_alone -= alone
            seat.busy += 1
            seat.alone = alone
            assert seat.worker is not None, "only ready ones are taken"
            return seat, seat.worker

    def _free_seat(self) -> _Seat | None:
        """The least busy seat; while a picture waits to be alone the next one, so that the first gets empty."""
        ready = [seat for seat in self._seats if seat.worker and not seat.alone]
        ready = sorted(ready, key=lambda seat: seat.busy)[1 if self._waiting_alone else 0 :]
        return next((seat for seat in ready if seat.busy < self._parallel), None)

    def _empty_seat(self) -> _Seat | None:
        return next((seat for seat in self._seats if seat.worker and not seat.busy), None)

    def _await(self, find: Callable[[], T | None]) -> T:
        """Wait for something to be found; NoAnswers once the pool has failed, or no worker was ready for long."""
        while True:
            if self._failure or self._closed:
                raise self._failure or NoAnswers("the job has ended")
            if found := find():
                return found
            if not self._changed.wait(self._within_s) and not any(seat.worker for seat in self._seats):
                raise NoAnswers(f"no worker was ready within {self._within_s:.0f} s: is there room for one?")

    def _give_back(self, seat: _Seat) -> None:
        with self._changed:
            seat.busy -= 1
            seat.alone = False
            self._changed.notify_all()

    def _replace(self, seat: _Seat, ended: Worker) -> None:
        """Start another worker, once for all pictures that `ended` had."""
        with self._changed:
            if seat.worker is not ended:
                return
            seat.worker = None
        ended.stop()
        self._fill(seat)

    def _fill(self, seat: _Seat) -> None:
        threading.Thread(target=self._begin, args=(seat,), name="worker-start", daemon=True).start()

    def _begin(self, seat: _Seat) -> None:
        """Start a worker for the seat, which takes as long as there is no room for it."""
        failure: NoAnswers | None = None
        for _ in range(STARTS):
            if self._closed:
                return
            worker = self._start()
            try:
                self._admit(seat, worker, worker.ready())
                return
            except WorkerEnded as error:
                failure = NoAnswers(f"a worker ends while it starts: {error}")
                worker.stop()
            except Exception as error:
                failure = error if isinstance(error, NoAnswers) else NoAnswers(f"a worker cannot start: {error}")
                worker.stop()
                break
        with self._changed:
            self._failure = self._failure or failure
            self._changed.notify_all()

    def _admit(self, seat: _Seat, worker: Worker, model: WorkerModel) -> None:
        with self._changed:
            self._model = self._model or model
            if model != self._model:
                raise NoAnswers(
                    f"workers have different models: {model.name} ({model.weights_sha256[:12]}) and"
                    f" {self._model.name} ({self._model.weights_sha256[:12]}); give all machines the same bundles"
                )
            if not self._closed:
                seat.worker = worker
            self._changed.notify_all()
        if self._closed:
            worker.stop()
