"""Errors name the reason, whether the server or a proxy refused."""

import pickle

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openset import AnswerError, ClientError, ImageError, ProblemError, UrlsUnsupported
from openset.errors import excerpt, problem_error

from .conftest import problem

NGINX = """<html><head><title>413 Request Entity Too Large</title><style>h1 {color: red}</style></head>
<body><center><h1>413 Request &amp; Entity Too Large</h1></center><script>alert("x")</script><hr>nginx</body></html>"""


def refusal(connect, response):
    with pytest.raises(ProblemError) as caught:
        connect(lambda request: response, retries=0).models()
    return caught.value


def test_problem_gives_its_fields(connect):
    errors = [{"field": "top_k", "reason": "too small"}]
    error = refusal(connect, problem(422, "invalid-request", errors=errors, request_id="r1"))
    assert (error.status, error.type) == (422, "urn:openset:problem:invalid-request")
    assert (error.title, error.detail) == ("A title", "a detail")
    assert [(fault.field, fault.reason) for fault in error.errors] == [("top_k", "too small")]
    assert str(error) == "422 A title: a detail"


def test_page_of_a_proxy_is_told_without_its_markup(connect):
    error = refusal(connect, httpx.Response(413, html=NGINX))
    assert (error.status, error.type, error.errors) == (413, "about:blank", ())
    told = "413 Request Entity Too Large 413 Request & Entity Too Large nginx"
    assert error.detail == told
    assert str(error).endswith(told)


def test_problem_that_leaves_members_out_is_filled_in(connect):
    error = refusal(connect, httpx.Response(502, json={"title": "No upstream"}))
    assert (error.status, error.type, error.detail) == (502, "about:blank", "")
    assert str(error) == "502 No upstream"


@pytest.mark.parametrize("body", [b"", b"\xff\xfe", b"[1]", b'"x"', b"null", b'{"detail": 5}', b"[" * 100_000])
def test_body_that_is_no_problem_leaves_the_status(connect, body):
    error = refusal(connect, httpx.Response(404, content=body))
    assert (error.status, error.title) == (404, "Not Found")
    assert len(str(error)) < 400


def test_status_without_a_name_is_told_all_the_same(connect):
    assert str(refusal(connect, httpx.Response(599, text="odd"))).startswith("599 ")


def test_redirect_is_not_followed_but_told(connect):
    error = refusal(connect, httpx.Response(308, headers={"Location": "https://other.test/models"}))
    assert "https://other.test/models" in str(error)


@given(
    st.binary(max_size=5000), st.sampled_from(["text/html", "application/problem+json", "x", "text/html; charset=x"])
)
def test_any_body_makes_a_short_readable_error(body, content_type):
    error = problem_error(httpx.Response(500, content=body, headers={"Content-Type": content_type}))
    assert error.status == 500
    assert str(error).isprintable() or error.type != "about:blank"


def test_login_that_a_proxy_asks_for_is_told(connect):
    error = refusal(connect, httpx.Response(407, text="<h1>ERROR</h1>"))
    assert str(error).startswith(
        "407 Proxy Authentication Required: the proxy that the environment names asks for a login"
    )


def test_excerpt_is_cut():
    assert excerpt(httpx.Response(500, text="word " * 1000)) == ("word " * 60) + "…"


def test_answer_that_is_not_the_servers_is_told_with_what_came(connect):
    with pytest.raises(
        AnswerError, match=r"models answered 200, but not as an Openset server does .*: Welcome, log in"
    ):
        connect(lambda request: httpx.Response(200, html="<h1>Welcome, log in</h1>")).models()
    with pytest.raises(AnswerError, match=r"\(models: Field required\)"):
        connect(lambda request: httpx.Response(200, json={})).models()


def test_problem_survives_being_sent_to_another_process():
    error = pickle.loads(pickle.dumps(problem_error(problem(404, "unknown-model"))))
    assert (error.status, str(error)) == (404, "404 A title: a detail")


def test_server_without_urls_of_images_is_told_from_other_refusals():
    errors = [{"field": "image_urls", "reason": "there is no such field"}]
    error = problem_error(problem(422, "invalid-request", errors=errors))
    assert isinstance(error, UrlsUnsupported)
    assert "takes no URLs of images" in str(error)
    errors = [{"field": "image_urls.0", "reason": "too long"}]
    assert type(problem_error(problem(422, "invalid-request", errors=errors))) is ProblemError
    refused = problem_error(problem(422, "url-refused"))
    assert isinstance(refused, UrlsUnsupported)
    assert refused.detail == "a detail"


def test_errors_have_one_base():
    assert {AnswerError, ImageError, ProblemError} <= set(ClientError.__subclasses__())
    assert issubclass(ImageError, ValueError)
