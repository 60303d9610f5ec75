"""The two clients: the same methods, addresses, keys, and being closed."""

import asyncio
import inspect

import httpx
import pytest

from openset import AsyncClient, Client, ProblemError

from .conftest import models_answer, problem


def public(client):
    return {name: each for name, each in vars(client).items() if not name.startswith("_") and callable(each)}


def test_clients_have_the_same_methods_arguments_and_answers():
    one, other = public(Client), public(AsyncClient)
    assert list(one) == list(other)
    for name in one:
        given, asked = inspect.signature(one[name]), inspect.signature(other[name])
        assert given.parameters == asked.parameters, name
        assert given == asked or inspect.isasyncgenfunction(other[name]), name
        assert inspect.iscoroutinefunction(other[name]) or inspect.isasyncgenfunction(other[name]), name
    arguments = inspect.signature(Client).parameters.keys()
    assert arguments == inspect.signature(AsyncClient).parameters.keys()


@pytest.mark.parametrize(
    ("status", "is_ready"),
    [(200, True), (503, False), (None, False)],
    ids=["ready", "not yet", "no server"],
)
def test_ready_tells_at_once(connect, clock, status, is_ready):
    def server(request):
        assert request.url.path == "/readyz"
        if status is None:
            raise httpx.ConnectError("refused", request=request)
        return httpx.Response(status, json={"status": "ok"})

    assert connect(server).ready() is is_ready
    assert clock.slept == []


def test_ready_of_something_else_is_no_answer(connect):
    with pytest.raises(ProblemError, match="404"):
        connect(lambda request: httpx.Response(404, html="<p>What?</p>")).ready()


def test_key_goes_with_every_request_and_is_shown_nowhere(connect):
    seen = []

    def server(request):
        seen.append(request.headers.get("authorization"))
        return problem(401) if request.method == "POST" else models_answer()

    client = connect(server, api_key="s3cret")
    client.models()
    with pytest.raises(ProblemError) as caught:
        client.detect(b"x", labels="dog")
    assert seen == ["Bearer s3cret"] * 2
    assert "s3cret" not in repr(client) + str(caught.value)


def test_without_a_key_none_is_sent(connect):
    connect(lambda request: models_answer() if "authorization" not in request.headers else problem(400)).models()


@pytest.mark.parametrize("url", ["http://proxy.test/vision", "http://proxy.test/vision/"])
def test_path_of_the_address_is_kept(url):
    paths = []

    def server(request):
        paths.append(request.url.path)
        return models_answer()

    with Client(url, transport=httpx.MockTransport(server)) as client:
        client.models()
    assert paths == ["/vision/models"]


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000", "", "ftp://a", "http://", "http://a/?x=1", "http://a/#x", "http://a:b", "/detect"),
        *("http://a..b", f"http://{'a' * 64}.test", "http://xn--"),
    ],
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_address_that_cannot_be_is_refused(kind, url):
    with pytest.raises(ValueError, match=r"URL|address"):
        kind(url)


def test_closed_client_sends_nothing_more():
    with Client("http://a.test", transport=httpx.MockTransport(lambda request: models_answer())) as client:
        client.models()
    with pytest.raises(RuntimeError):
        client.models()

    async def closed():
        transport = httpx.MockTransport(lambda request: models_answer())
        async with AsyncClient("http://a.test", transport=transport) as client:
            await client.models()
        await client.models()

    with pytest.raises(RuntimeError):
        asyncio.run(closed())
