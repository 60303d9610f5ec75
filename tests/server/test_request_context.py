"""The request context: what an ASGI scope and its headers say of a request."""

import pytest
from starlette.datastructures import Headers

from server.errors import InvalidRequest
from server.request_context import MAX_TIMEOUT_MS, PRIORITY, REQUEST_ID, TIMEOUT, RequestContext


def scope(**headers):
    return {
        "type": "http",
        "client": ("192.0.2.7", 40000),
        "headers": [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()],
    }


def read(**headers):
    context = RequestContext()
    context.read_scheduling(Headers(headers))
    return context


def test_request_id_of_the_client_is_kept_where_it_fits_a_log_line():
    assert RequestContext.of(scope(**{REQUEST_ID.lower(): "trace-7:a"})).request_id == "trace-7:a"
    made = [RequestContext.of(scope(**{REQUEST_ID.lower(): bad})).request_id for bad in ("", "a b", "a\tb", "x" * 129)]
    assert {len(request_id) for request_id in made} == {32}
    assert len(set(made)) == 4


def test_client_is_the_address_until_a_key_names_it():
    assert RequestContext.of(scope()).client == "192.0.2.7"
    assert RequestContext.of(scope() | {"client": None}).client == ""


def test_priority_and_deadline_come_from_their_headers():
    assert (read().priority, read().timeout_s) == ("interactive", None)
    context = read(**{PRIORITY: " Batch ", TIMEOUT: "1500"})
    assert (context.priority, context.timeout_s) == ("batch", 1.5)


@pytest.mark.parametrize("timeout", ["0", "-1", "1.5", "soon", str(MAX_TIMEOUT_MS + 1), "9" * 5000])
def test_deadline_that_is_none_is_named(timeout):
    with pytest.raises(InvalidRequest, match=TIMEOUT):
        read(**{TIMEOUT: timeout})


def test_all_wrong_headers_are_named_at_once():
    with pytest.raises(InvalidRequest) as refusal:
        read(**{PRIORITY: "urgent", TIMEOUT: "soon"})
    assert [fault.field for fault in refusal.value.faults] == [PRIORITY, TIMEOUT]
