"""Progress: a run that hangs is noticed, one that is slow or was suspended is not."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.inference import progress
from server.inference.progress import CONFIRMED_S, HUNG_RUNS, HUNG_S, RunProgress
from tests.server.fakes import picture


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_run_that_hangs_is_told_after_its_time_and_a_second_look(clock):
    run = RunProgress(clock)
    with run.working():
        clock.now += HUNG_S - 1
        assert not run.hangs()
        clock.now += 1
        assert not run.hangs()
        clock.now += CONFIRMED_S
        assert run.hangs()
        run.step()
        assert not run.hangs()
    assert not run.hangs()


def test_process_that_was_stopped_is_not_taken_for_one_that_hangs(clock):
    run = RunProgress(clock)
    with run.working():
        clock.now += 3600  # SIGSTOP, SIGCONT
        assert not run.hangs()
        clock.now += CONFIRMED_S / 2
        run.step()
        clock.now += 1
        assert not run.hangs()


def test_slow_runs_have_the_time_that_they_usually_take(clock):
    run = RunProgress(clock)
    for _ in range(3):
        with run.working():
            clock.now += 30
    with run.working():
        for _ in range(4):
            clock.now += 30 * HUNG_RUNS / 4 - 1
            assert not run.hangs()
        clock.now += 30
        run.hangs()
        clock.now += CONFIRMED_S
        assert run.hangs()


@given(st.lists(st.floats(0, HUNG_S - 1), max_size=20))
def test_run_in_steps_never_hangs(pauses):
    clock = Clock()
    run = RunProgress(clock)
    with run.working():
        for pause in pauses:
            clock.now += pause
            assert not run.hangs()
            run.step()


def test_failed_work_is_over(clock):
    run = RunProgress(clock)
    with pytest.raises(ValueError, match="fault"), run.working():
        raise ValueError("fault")
    clock.now += 1000
    assert not run.hangs()


def test_hung_run_turns_livez_and_readyz_red_and_refuses_at_once(client, detector, monkeypatch):
    gate, started = threading.Event(), threading.Event()
    detector.before_run = lambda: started.set() or gate.wait(60)
    monkeypatch.setattr(progress, "HUNG_S", 0.05)
    monkeypatch.setattr(progress, "CONFIRMED_S", 0.05)

    def detect(answers):
        files = [("image", ("a.png", picture()))]
        answers.append(client.post("/detect", files=files, data={"labels": "dog"}).status_code)

    first, later = [], []
    asking = threading.Thread(target=detect, args=(first,))
    asking.start()
    assert started.wait(60)
    while client.get("/livez").status_code == 200:
        pass
    for path in ("/livez", "/readyz", "/v2/health/live", "/v2/models/fake-detector/ready"):
        answer = client.get(path)
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:openset:problem:worker-stopped")
    detect(later)
    assert later == [503]
    gate.set()
    asking.join()
    assert first == [200]
    assert client.get("/livez").status_code == 200, "it was only slow"
