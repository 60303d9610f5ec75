"""The queue: bounded, batched by bucket, rid of what nobody waits for, and alive after a failed run."""

import gc
import threading
import time
import weakref
from concurrent.futures import CancelledError
from contextlib import ExitStack

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.errors import InferenceFailed, NotReady, QueueFull, WorkerStopped
from server.inference.batching import Batcher, BatchLimits, _Pace
from server.telemetry.metrics import Metrics

SOON = 5  # seconds; what a test waits for at most


class Machine:
    """A batcher of numbers that answers each with its double; holds every run until `gate` is set."""

    def __init__(self, *, capacity=8, max_batch=4, max_wait_s=0.0, held=True):
        self.gate = threading.Event()
        self.started = threading.Event()
        self.runs = []
        if not held:
            self.gate.set()
        self.metrics = Metrics()
        self.batcher = Batcher(
            "doubler",
            self.run,
            bucket=lambda item: item % 10,
            limits=BatchLimits(capacity=capacity, max_batch=max_batch, max_wait_s=max_wait_s),
            metrics=self.metrics.of("doubler"),
        )
        self.places = ExitStack()

    def run(self, items):
        self.started.set()
        assert self.gate.wait(SOON)
        self.runs.append(list(items))
        if any(item < 0 for item in items):
            raise ValueError("negative")
        if 666 in items:
            raise SystemExit("worker dies")
        return [2 * item for item in items]

    def submit(self, *items, **context):
        places = self.places.enter_context(self.batcher.reserve(len(items), **context))
        return [places.submit(item) for item in items]

    def occupy(self):
        """Keep the worker busy with one item, so that what follows queues up."""
        (future,) = self.submit(9)
        assert self.started.wait(SOON)
        return future

    def sample(self, name):
        return self.metrics.registry.get_sample_value(f"openset_{name}", {"model": "doubler"})


@pytest.fixture
def make():
    machines = []

    def start(**options):
        machines.append(Machine(**options))
        return machines[-1]

    yield start
    for machine in machines:
        machine.gate.set()
        machine.places.close()
        machine.batcher.close(SOON)


def values(futures):
    return [future.result(SOON).value for future in futures]


def test_items_of_one_bucket_run_together_whoever_sent_them(make):
    machine = make()
    first = machine.occupy()
    waiting = [*machine.submit(1), *machine.submit(11), *machine.submit(2, 21)]
    machine.gate.set()
    assert values([first, *waiting]) == [18, 2, 22, 4, 42]
    assert machine.runs == [[9], [1, 11, 21], [2]]


def test_batch_is_capped(make):
    machine = make(max_batch=2)
    machine.occupy()
    values_of = machine.submit(1, 11, 21)
    machine.gate.set()
    values(values_of)
    assert machine.runs == [[9], [1, 11], [21]]


def test_idle_worker_runs_a_single_item_at_once(make):
    machine = make(held=False)
    (done,) = [future.result(SOON) for future in machine.submit(3)]
    assert done.value == 6
    assert done.started - done.queued < 1


@pytest.mark.parametrize(
    ("single", "several", "runs"), [(0.0, 1000.0, [[9], [1], [11], [21]]), (1000.0, 0.0, [[9], [1, 11, 21]])]
)
def test_items_run_together_or_singly_as_has_been_faster(make, single, several, runs):
    machine = make()
    futures = [machine.occupy(), *machine.submit(1, 11, 21)]
    pace = machine.batcher._pace(1)
    pace.add(1, single)
    pace.add(4, 4 * several)
    machine.gate.set()
    values(futures)
    assert machine.runs == runs


@pytest.mark.parametrize(("single", "several", "together"), [(1.0, 1.2, False), (1.0, 1.0, False), (1.2, 1.0, True)])
def test_slower_way_is_tried_again_now_and_then(single, several, together):
    pace, items = _Pace(), {True: 0, False: 0}
    assert pace.together(), "as long as nothing is known"
    pace.add(1, single)
    pace.add(3, 3 * several)
    for _ in range(400):
        chosen = pace.together()
        count = 3 if chosen else 1
        pace.add(count, count * (several if chosen else single))
        items[chosen] += count
    assert 0 < items[not together] < sum(items.values()) / 10


def test_one_slow_run_decides_nothing():
    pace = _Pace()
    for seconds in (1.0, 9.0):  # something else took the processors
        pace.add(1, seconds)
    pace.add(2, 2 * 1.2)
    assert not pace.together()


def test_paces_are_kept_of_so_many_buckets(make, monkeypatch):
    machine = make(held=False, capacity=20)
    monkeypatch.setattr("server.inference.batching._MAX_BUCKETS", 3)
    values([one for item in range(10) for one in machine.submit(item)])
    assert len(machine.batcher._paces) <= 3


def test_waiting_collects_more_items(make):
    machine = make(held=False, max_wait_s=SOON, max_batch=2)
    first = machine.submit(1)
    time.sleep(0.02)
    second = machine.submit(11)
    assert values([*first, *second]) == [2, 22]
    assert machine.runs == [[1, 11]]


def test_nothing_waits_for_company_that_has_been_slower(make):
    machine = make(held=False, max_wait_s=10 * SOON, max_batch=2)
    pace = machine.batcher._pace(1)
    pace.add(1, 0.0)
    pace.add(2, 2000.0)
    assert values(machine.submit(1)) == [2]


def test_full_queue_refuses_at_once_with_time_to_come_back(make):
    machine = make(capacity=3)
    machine.occupy()
    machine.submit(1, 2)
    with pytest.raises(QueueFull) as refusal:
        machine.submit(3, 4)
    assert 1 <= int(refusal.value.headers["Retry-After"]) <= 60
    assert "2 of 3 places of doubler are taken" in str(refusal.value)
    machine.submit(3)  # one place is left


def test_places_are_held_from_admission_on(make):
    machine = make(capacity=2)
    with machine.batcher.reserve(2), pytest.raises(QueueFull), machine.batcher.reserve(1):
        pass
    assert machine.batcher.depth == 0
    assert machine.sample("queue_depth") == 0


def test_cancelled_item_gives_its_place_back_and_never_runs(make):
    machine = make(capacity=2)
    machine.occupy()
    gone, stays = machine.submit(1, 11)
    assert gone.cancel()
    assert machine.batcher.depth == 1
    machine.submit(2)
    machine.gate.set()
    assert values([stays]) == [22]
    with pytest.raises(CancelledError):
        gone.result(SOON)
    assert all(1 not in run for run in machine.runs)


def test_failed_run_fails_its_item_and_the_worker_goes_on(make):
    machine = make(held=False)
    (bad,) = machine.submit(-5)
    with pytest.raises(InferenceFailed, match="the run on doubler failed"):
        bad.result(SOON)
    assert values(machine.submit(5)) == [10]
    assert machine.batcher.alive


def test_item_does_not_suffer_for_a_bad_neighbour(make):
    machine = make()
    machine.occupy()
    good, bad, other = machine.submit(5, -5, 15)  # -5 % 10 == 5
    machine.gate.set()
    assert values([good, other]) == [10, 30]
    with pytest.raises(InferenceFailed):
        bad.result(SOON)


def test_wrong_number_of_results_is_a_failed_run(make, monkeypatch):
    machine = make(held=False)
    monkeypatch.setattr(machine.batcher, "_execute", lambda items: [])
    with pytest.raises(InferenceFailed):
        values(machine.submit(1))


def test_dead_worker_fails_all_that_waits_and_refuses_more(make):
    machine = make()
    machine.occupy()
    fatal, waiting = machine.submit(666, 1)
    machine.gate.set()
    for future in (fatal, waiting):
        with pytest.raises(WorkerStopped):
            future.result(SOON)
    assert not machine.batcher.alive
    with pytest.raises(WorkerStopped):
        machine.submit(2)


def test_worker_counts_as_dead_before_anyone_is_told(make):
    machine = make()
    machine.occupy()
    futures = machine.submit(666, 6, 1)  # dies with a neighbour, and one in the queue
    seen = []
    for future in futures:
        future.add_done_callback(lambda _: seen.append(machine.batcher.alive))  # at the very moment of the answer
    machine.gate.set()
    for future in futures:
        with pytest.raises(WorkerStopped):
            future.result(SOON)
    machine.batcher._thread.join(SOON)
    assert seen == [False, False, False]


def test_death_in_a_second_try_fails_the_neighbours_not_tried_yet(make):
    machine = make()
    machine.occupy()
    bad, fatal, untried = machine.submit(-4, 666, 16)  # one bucket: -4 % 10 == 6
    machine.gate.set()
    with pytest.raises(InferenceFailed):
        bad.result(SOON)
    for future in (fatal, untried):
        with pytest.raises(WorkerStopped):
            future.result(SOON)


def test_closing_finishes_what_was_admitted(make):
    machine = make()
    machine.occupy()
    with machine.batcher.reserve(1) as places:
        closing = threading.Thread(target=machine.batcher.close, args=(SOON,))
        closing.start()
        while not machine.batcher._closing:
            time.sleep(0.001)
        with pytest.raises(NotReady):
            machine.submit(1)
        late = places.submit(2)
        machine.gate.set()
        assert values([late]) == [4]
    closing.join(SOON)
    assert not machine.batcher._thread.is_alive()


def test_closing_does_not_wait_for_ever(make):
    machine = make()
    machine.occupy()
    (waiting,) = machine.submit(1)
    machine.batcher.close(0.01)
    with pytest.raises(NotReady):
        waiting.result(SOON)


def test_item_goes_with_its_result_and_needs_no_garbage_collector():
    class Pixels:
        pass

    limits = BatchLimits(capacity=1, max_batch=1)
    batcher = Batcher("m", lambda items: [0], bucket=lambda _: 0, limits=limits, metrics=Metrics().of("m"))
    gc.disable()
    try:
        item = Pixels()
        alive = weakref.ref(item)
        with batcher.reserve(1) as places:
            future = places.submit(item)
        del item
        assert future.result(SOON).value == 0
        del future
        give_up = time.monotonic() + SOON
        while alive() and time.monotonic() < give_up:
            time.sleep(0.001)
        assert alive() is None
    finally:
        gc.enable()
        batcher.close(SOON)


def test_counts_tell_the_mean_batch(make):
    machine = make()
    futures = [machine.occupy(), *machine.submit(1, 11, 21)]
    machine.gate.set()
    values(futures)
    assert machine.sample("inferences_total") == 4
    assert machine.sample("executions_total") == 2
    assert machine.sample("batch_size_sum") == 4
    assert machine.sample("infer_duration_seconds_count") == 2
    assert machine.sample("queue_duration_seconds_count") == 4


def test_last_places_are_kept_for_clients_that_have_none(make):
    machine = make(capacity=16)
    machine.occupy()
    machine.submit(*range(14), client="hog")
    with pytest.raises(QueueFull, match=r"14 of 16 places .* 2 more are kept for clients that have had fewer"):
        machine.submit(1, client="hog")
    machine.submit(1, client="single")
    with pytest.raises(QueueFull):
        machine.submit(2, client="single")
    machine.submit(3, client="other")
    with pytest.raises(QueueFull, match="16 of 16 places"):
        machine.submit(4, client="late")


@pytest.mark.parametrize("way", ["run", "cancelled", "never submitted"])
def test_client_gets_its_places_back(make, way):
    machine = make(capacity=8, held=way == "run")
    if way == "run":
        futures = machine.submit(*range(8), client="a")
        machine.gate.set()
        values(futures)
    elif way == "cancelled":
        machine.gate.clear()
        machine.occupy()
        for future in machine.submit(*range(8), client="a"):
            future.cancel()
    else:
        with machine.batcher.reserve(8, client="a"):
            pass
    assert not machine.batcher._shares._clients["a"]
    assert not [name for name in machine.batcher._shares._clients if name], "nobody is remembered for ever"


def test_interactive_items_run_before_batch_items(make):
    machine = make(max_batch=1)
    futures = [machine.occupy(), *machine.submit(1, 2, client="a", priority="batch"), *machine.submit(3, client="b")]
    machine.gate.set()
    values(futures)
    assert machine.runs == [[9], [3], [1], [2]]


def test_time_to_come_back_is_items_ahead_times_seconds_per_item(make, monkeypatch):
    machine = make(capacity=40, max_batch=4)
    machine.occupy()
    monkeypatch.setattr(machine.batcher, "_seconds_per_item", 2.0)
    machine.submit(1, 11, 21, 31, 41, 2)
    with machine.batcher.reserve(5):
        assert machine.batcher.retry_after == 2 * (1 + 6 + 5)


def test_time_to_come_back_follows_the_measured_pace(make):
    machine = make(held=False)
    for _ in range(3):
        values(machine.submit(1))
    assert 0 < machine.batcher._seconds_per_item < 1
    assert machine.batcher.retry_after == 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 99), st.booleans())
def test_client_with_a_thousand_images_starves_nobody(others, max_batch, item, late):
    """The hog takes what it gets of 1000 places; a single image is admitted and runs after a run of each at most."""
    machine = Machine(capacity=64, max_batch=max_batch)
    machine.occupy()
    futures = []
    for number in range(1000):
        try:
            futures += machine.submit(100 + number, client="hog")
        except QueueFull:
            break
    assert 0 < len(futures) < 1000
    clients = min(others, 64 - len(futures) - 1) if late else 0
    for number in range(clients):
        futures += machine.submit(10_000 + number, client=f"other {number}")
    (mine,) = machine.submit(item, client="single")
    machine.gate.set()
    values([*futures, mine])
    machine.places.close()
    machine.batcher.close(SOON)
    place = next(place for place, ran in enumerate(machine.runs) if item in ran)
    assert place <= 1 + 1 + clients, "the run that was on, one led by the hog, one by each other client"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.booleans()), min_size=1, max_size=30), st.integers(1, 5))
def test_every_item_gets_its_own_result_or_is_dropped(items, max_batch):
    machine = Machine(capacity=64, max_batch=max_batch)
    machine.occupy()
    futures = [(item, machine.submit(item)[0], cancel) for item, cancel in items]
    for _, future, cancel in futures:
        if cancel:
            assert future.cancel()
    machine.gate.set()
    for item, future, cancel in futures:
        assert cancel or future.result(SOON).value == 2 * item
    machine.places.close()
    machine.batcher.close(SOON)
    assert machine.batcher.depth == 0
    assert sum(map(len, machine.runs)) == 1 + sum(not cancel for _, cancel in items)
    assert all(len({item % 10 for item in run}) == 1 and len(run) <= max_batch for run in machine.runs)
