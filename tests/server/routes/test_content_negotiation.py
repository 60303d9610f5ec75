"""Content negotiation by the Accept header."""

import pytest

from server.errors import NotAcceptable
from server.routes.content_negotiation import negotiate

OFFERED = ("application/json", "image/png")


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, "application/json"),
        ("", "application/json"),
        ("*/*", "application/json"),
        ("image/png", "image/png"),
        ("IMAGE/PNG", "image/png"),
        ("image/*", "image/png"),
        ("image/png, */*", "image/png"),
        ("image/png;q=0.5, application/json;q=0.4", "image/png"),
        ("image/png;q=0.5, */*", "application/json"),
        ("application/json;q=0, */*", "image/png"),
        ("text/html, application/*;q=0.1", "application/json"),
    ],
)
def test_best_type_is_chosen(accept, chosen):
    assert negotiate(accept, OFFERED) == chosen


@pytest.mark.parametrize("accept", ["text/html", "image/png;q=0", "application/json;q=nan", ";;,"])
def test_nothing_acceptable_is_refused(accept):
    with pytest.raises(NotAcceptable):
        negotiate(accept, OFFERED)
