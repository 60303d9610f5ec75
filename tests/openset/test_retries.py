"""When a request is sent again, and after how long."""

import random
from datetime import UTC, datetime
from email.utils import format_datetime

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openset import ConnectionFailed, ProblemError, Retries
from openset.retries import parse_retry_after

from .conftest import models_answer, problem

BUSY = [429, 503]
NOT_REACHED = [httpx.ConnectError, httpx.ConnectTimeout, httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError]


class Sequenced:
    """A server that gives these answers, the last again and again; an error class is raised. It counts in `asked`."""

    def __init__(self, *answers):
        self.asked, self._answers = 0, answers

    def __call__(self, request):
        self.asked += 1
        answer = self._answers[min(self.asked, len(self._answers)) - 1]
        if isinstance(answer, type):
            raise answer("down", request=request)
        return answer


def busy(status, after=None):
    return problem(status, headers={} if after is None else {"Retry-After": after})


@pytest.mark.parametrize("status", BUSY)
def test_busy_server_is_asked_again_after_the_seconds_it_names(connect, clock, status):
    server = Sequenced(busy(status, "7"), busy(status, "2"), models_answer())
    assert connect(server).models().models == []
    assert clock.slept == [7, 2]


@pytest.mark.parametrize("status", BUSY)
def test_busy_server_is_asked_again_at_the_date_it_names(connect, clock, status):
    date = format_datetime(datetime.fromtimestamp(clock.time() + 9, UTC), usegmt=True)
    connect(Sequenced(busy(status, date), models_answer())).models()
    assert clock.slept == [9]


def test_date_that_has_passed_means_now(connect, clock):
    connect(Sequenced(busy(503, "Wed, 21 Oct 2015 07:28:00 GMT"), models_answer())).models()
    assert clock.slept == [0]


def test_wait_without_a_date_doubles_up_to_its_bound(connect, clock):
    clock.luck = 1
    server = Sequenced(*[busy(503)] * 6, models_answer())
    connect(server, retries=Retries(max_attempts=7, backoff_s=1, max_backoff_s=8)).models()
    assert clock.slept == [1, 2, 4, 8, 8, 8]


@pytest.mark.parametrize("error", NOT_REACHED)
def test_failed_connection_is_tried_again(connect, clock, error):
    connect(Sequenced(error, models_answer())).models()
    assert len(clock.slept) == 1


def test_refusal_is_raised_after_the_last_attempt(connect, clock):
    server = Sequenced(busy(429, "1"))
    with pytest.raises(ProblemError) as caught:
        connect(server, retries=2).models()
    assert (caught.value.status, caught.value.type) == (429, "urn:openset:problem:queue-full")
    assert (server.asked, clock.slept) == (3, [1, 1])


def test_lost_server_is_told_with_its_address_after_the_last_attempt(connect):
    server = Sequenced(httpx.ConnectError)
    with pytest.raises(ConnectionFailed, match=r"openset\.test:8000/models gave no answer after 3 attempts: down"):
        connect(server, retries=2).models()
    assert server.asked == 3


def test_without_retries_the_first_refusal_is_raised_at_once(connect, clock):
    server = Sequenced(busy(503, "1"))
    with pytest.raises(ProblemError):
        connect(server, retries=0).models()
    assert (server.asked, clock.slept) == (1, [])


def test_wait_beyond_the_total_time_is_not_begun(connect, clock):
    server = Sequenced(busy(429, "20"))
    with pytest.raises(ProblemError):
        connect(server, retries=Retries(max_attempts=99, budget_s=50)).models()
    assert (server.asked, clock.slept) == (3, [20, 20])


@pytest.mark.parametrize("after", ["3600", "1" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_far_away_time_is_not_waited_for(connect, clock, after):
    with pytest.raises(ProblemError):
        connect(Sequenced(busy(503, after))).models()
    assert clock.slept == []


def test_time_of_the_requests_counts_too(connect, clock):
    def slow(request):
        clock.elapsed += 31
        return busy(503, "0")

    with pytest.raises(ProblemError):
        connect(slow, retries=Retries(max_attempts=99, budget_s=60)).models()
    assert len(clock.slept) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 408, 413, 415, 422, 500, 502, 504])
def test_other_refusals_are_final(connect, clock, status):
    server = Sequenced(problem(status, headers={"Retry-After": "1"}))
    with pytest.raises(ProblemError):
        connect(server).models()
    assert (server.asked, clock.slept) == (1, [])


@pytest.mark.parametrize("error", [httpx.ReadTimeout, httpx.WriteTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol])
def test_slow_server_is_not_given_the_same_work_twice(connect, clock, error):
    server = Sequenced(error)
    with pytest.raises(ConnectionFailed, match="gave no answer: down") as caught:
        connect(server).models()
    assert isinstance(caught.value.__cause__, error)
    assert server.asked == 1


def test_request_is_the_same_every_time(connect, clock):
    bodies = []

    def server(request):
        bodies.append(request.read())
        return busy(503)

    with pytest.raises(ProblemError):
        connect(server).classify(b"picture", ["dog", "cat"])
    assert len(bodies) == 5
    assert len(set(bodies)) == 1


@given(st.integers(1, 10_000), st.none() | st.floats(0, 1e6), st.floats(0, 1))
def test_wait_is_never_less_than_asked_and_always_bounded(attempt, asked, chance):
    bounds = Retries(backoff_s=0.5, max_backoff_s=8)
    wait = bounds.wait(attempt, asked, chance)
    if asked is None:
        assert 0.25 <= wait <= 8
    else:
        assert asked <= wait <= asked + 0.5


def test_waits_of_two_clients_differ():
    waits = {Retries().wait(1, 2.0, random.random()) for _ in range(9)}
    assert len(waits) > 1


@given(st.text() | st.from_regex(r"(Mon, )?[0-9]{1,9} [A-Z][a-z]{2} -?[0-9]{1,9} [0-9:]{1,9}( GMT)?", fullmatch=True))
def test_header_that_makes_no_sense_is_none(value):
    after = parse_retry_after(value, now=0)
    assert after is None or after >= 0


@pytest.mark.parametrize("value", [None, "", "soon", "-1", "1.5", "٣", "1e3"])
def test_what_is_neither_seconds_nor_a_date_is_none(value):
    assert parse_retry_after(value, now=0) is None


@pytest.mark.parametrize(
    "bounds", [{"max_attempts": 0}, {"budget_s": -1}, {"backoff_s": float("nan")}, {"max_backoff_s": -0.5}], ids=str
)
def test_impossible_bounds_are_refused_by_name(bounds):
    with pytest.raises(ValueError, match=next(iter(bounds))):
        Retries(**bounds)
