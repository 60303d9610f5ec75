import pytest

from server.errors import MemoryExhausted, TooManyRequests
from server.middleware.admission import Admission
from server.request_context import RequestContext
from server.settings import Settings


def admission(**settings):
    return Admission(Settings(**settings), retry_after=lambda: 7)


def test_place_and_memory_come_back_at_the_end_also_of_what_fails():
    made, context = admission(max_inflight_requests=8), RequestContext(client="alice")

    def fail():
        with made.place(context):
            context.hold(1000)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (made._places.used, made._memory.used) == (0, 0)


def test_client_leaves_an_eighth_to_others_and_is_told_when_to_come_again():
    made = admission(max_inflight_requests=8)
    contexts = [RequestContext(client="alice") for _ in range(7)]
    places = [made.place(context) for context in contexts]
    for place in places:
        place.__enter__()
    with pytest.raises(TooManyRequests, match="your share of 8 requests") as refused:
        made.place(contexts[0]).__enter__()
    assert refused.value.retry_after == 7
    with made.place(RequestContext(client="bob")):
        assert made._places.used == 8


def test_memory_is_held_up_to_the_limit():
    made, context = admission(), RequestContext(client="alice")
    with made.place(context), pytest.raises(MemoryExhausted):
        context.hold(2**50)


def test_memory_alone_takes_no_place():
    made, context = admission(max_inflight_requests=8), RequestContext(client="alice")
    with made.memory(context):
        context.hold(1000)
        assert (made._places.used, made._memory.used) == (0, 1000)
    assert made._memory.used == 0
