"""Workers that end: each picture has one result, and one that ends its process is found out."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import PurePath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openset.answerer import NoAnswers
from openset.label.results_log import PictureResult
from openset.label.worker_pool import WorkerEnded, WorkerModel, WorkerPool
from openset.sources import MediaFile

MODEL = WorkerModel("fake", "0" * 64)


class FakeProcess:
    """A process: a picture named in `deadly` ends it, and all pictures that it has then are lost."""

    def __init__(self, deadly=(), model=MODEL, seconds=0.002):
        self.deadly, self.model, self.seconds = set(deadly), model, seconds
        self.over = threading.Event()
        self.working, self.most = [], 0
        self.begun = []

    def ready(self):
        return self.model

    def label(self, picture):
        self.working.append(picture.name)
        self.begun.append((picture.name, tuple(self.working)))
        self.most = max(self.most, len(self.working))
        try:
            if picture.name in self.deadly:
                time.sleep(self.seconds)
                self.over.set()
            if self.over.wait(self.seconds):
                raise WorkerEnded("killed by signal 9\nmore")
            return PictureResult(image=picture.name, width=4, height=3)
        finally:
            self.working.remove(picture.name)

    def stop(self):
        self.over.set()


class Processes:
    """Starts fake processes and keeps them; `first` are those that start before the ordinary ones."""

    def __init__(self, *first, **options):
        self.first, self.options, self.started = list(first), options, []

    def __call__(self):
        self.started.append(self.first.pop(0) if self.first else FakeProcess(**self.options))
        return self.started[-1]


def pictures(count):
    return [MediaFile(PurePath(f"{number}.jpg"), f"{number}.jpg") for number in range(count)]


def label_all(pool, files):
    with closing(pool), ThreadPoolExecutor(pool.ahead) as threads:
        return list(threads.map(pool.label, files))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 4), parallel=st.integers(1, 4), deadly=st.sets(st.integers(0, 29), max_size=4))
def test_pictures_that_end_their_process_are_rows_and_all_others_have_results(count, parallel, deadly):
    names = {f"{number}.jpg" for number in deadly}
    results = label_all(WorkerPool(Processes(deadly=names), count=count, parallel=parallel), pictures(30))
    assert [result.image for result in results] == [file.name for file in pictures(30)]
    assert {result.image for result in results if result.error} == names


def test_second_try_of_a_picture_is_with_no_other():
    start = Processes(deadly={"3.jpg"})
    label_all(WorkerPool(start, count=2, parallel=3), pictures(20))
    tries = [beside for process in start.started for name, beside in process.begun if name == "3.jpg"]
    assert len(tries) == 2
    assert sorted(tries, key=len)[0] == ("3.jpg",)


def test_no_worker_has_more_pictures_than_it_may():
    start = Processes(deadly={"3.jpg", "9.jpg"})
    label_all(WorkerPool(start, count=2, parallel=3), pictures(40))
    assert max(process.most for process in start.started) <= 3


def test_lost_worker_is_replaced_once_for_all_its_pictures():
    start = Processes(seconds=0.02)
    pool = WorkerPool(start, count=1, parallel=4)
    threading.Timer(0.03, start.started[0].over.set).start()
    results = label_all(pool, pictures(12))
    assert [result.error for result in results] == [None] * 12
    assert len(start.started) == 2


def test_reason_of_a_row_is_one_line():
    (result,) = label_all(WorkerPool(Processes(deadly={"0.jpg"}), count=1, parallel=1), pictures(1))
    assert result.error == "it ended the process that read it, 2 times: killed by signal 9"


class Unready(FakeProcess):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def ready(self):
        raise self.error


def test_model_that_cannot_be_loaded_ends_the_job_with_its_reason():
    with pytest.raises(NoAnswers, match="there is no model"):
        WorkerPool(Processes(Unready(NoAnswers("there is no model"))), count=1, parallel=1)


def test_worker_that_ends_while_it_starts_is_started_again():
    start = Processes(Unready(WorkerEnded("gone")), Unready(WorkerEnded("gone")))
    assert len(label_all(WorkerPool(start, count=1, parallel=1), pictures(3))) == 3


def test_worker_that_never_starts_ends_the_job():
    with pytest.raises(NoAnswers, match="ends while it starts: gone"):
        WorkerPool(Processes(*(Unready(WorkerEnded("gone")) for _ in range(9))), count=1, parallel=1)


def test_other_weights_on_another_machine_end_the_job():
    start = Processes(FakeProcess(), FakeProcess(model=WorkerModel("fake", "1" * 64)), seconds=0.05)
    with pytest.raises(NoAnswers, match="different models"):
        label_all(WorkerPool(start, count=2, parallel=1), pictures(50))


class Waiting(FakeProcess):
    """A worker for which there is no room."""

    def ready(self):
        self.over.wait(30)
        raise WorkerEnded("stopped")


def test_worker_without_room_keeps_no_other_from_its_work():
    start = Processes(FakeProcess(), Waiting(), Waiting())
    assert len(label_all(WorkerPool(start, count=3, parallel=2), pictures(20))) == 20


def test_job_for_which_there_is_no_room_ends_by_itself():
    with pytest.raises(NoAnswers, match="no worker was ready within 0 s: is there room for one"):
        WorkerPool(Processes(Waiting()), count=1, parallel=1, within_s=0.05)


def test_closed_pool_ends_all_processes():
    start = Processes()
    pool = WorkerPool(start, count=2, parallel=1)
    pool.close()
    time.sleep(0.05)
    assert all(process.over.is_set() for process in start.started)
    with pytest.raises(NoAnswers, match="the job has ended"):
        pool.label(pictures(1)[0])
