"""Proxies of the environment: used, passed by for this machine's own address, and told where they fail."""

import socket
import threading

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openset import AsyncClient, Client, ClientError
from openset.errors import ConnectionFailed
from openset.proxies import is_loopback, proxy_for, shown

VARIABLES = [name for word in ("http", "https", "all", "no") for name in (f"{word}_proxy", f"{word}_PROXY".upper())]
REFUSING = "http://user:secret@127.0.0.1:9"  # nothing listens on the port "discard"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Sets variables; none of proxies is there at first."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return lambda **given: [monkeypatch.setenv(name, value) for name, value in given.items()]


@pytest.fixture
def server():
    """The address of a server that answers every request with an empty list of models."""
    body = b'{"models":[],"limits":{}}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    "given",
    [
        {"ALL_PROXY": "socks5://127.0.0.1:9"},
        {"ALL_PROXY": "socks5h://127.0.0.1:9", "NO_PROXY": "example.com"},
        {"HTTP_PROXY": REFUSING},
        {"HTTP_PROXY": "127.0.0.1:9"},
        {"HTTP_PROXY": "nonsense://[", "ALL_PROXY": "gopher://x"},
        {"HTTP_PROXY": REFUSING, "NO_PROXY": "[::1]"},
        {"NO_PROXY": "[::1],,*.example.com,http://[,10.0.0.0/8,\t"},
    ],
    ids=str,
)
def test_loopback_is_asked_without_a_proxy(server, environment, given):
    environment(**given)
    with Client(server, retries=0) as client:
        assert client.ready()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "httpx[socks]"),
        ({"HTTP_PROXY": "gopher://127.0.0.1:9"}, "gopher://127.0.0.1:9"),
        ({"HTTP_PROXY": "http://a:b"}, "NO_PROXY names the hosts"),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_proxy_that_cannot_be_used_is_a_client_error(environment, kind, given, named):
    environment(**given)
    with pytest.raises(ClientError) as failure:
        kind("http://openset.example")
    assert named in str(failure.value)


def test_proxy_that_refuses_is_named_without_its_password(environment):
    environment(HTTP_PROXY=REFUSING)
    with Client("http://openset.example", retries=0) as client, pytest.raises(ConnectionFailed) as failure:
        client.models()
    assert "through the proxy http://127.0.0.1:9, which the environment names" in str(failure.value)
    assert "secret" not in str(failure.value)


@given(
    st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])), st.text(alphabet="[]:./*,@#% a1")
)
def test_whatever_the_variables_hold_a_client_is_made_or_refused_by_name(proxy, none):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HTTP_PROXY", proxy)
        patch.setenv("NO_PROXY", none)
        for url in ("http://openset.example", "http://127.0.0.1:8000"):
            try:
                Client(url).close()
            except ConnectionFailed:
                assert "example" in url


def test_no_proxy_and_scheme_choose_the_proxy(environment):
    environment(HTTPS_PROXY="http://a:1", ALL_PROXY="b:2", NO_PROXY="internal.example,.lan,10.1.2.3")
    assert proxy_for("https://hub.example/x") == "http://a:1"
    assert proxy_for("http://hub.example") == "http://b:2"
    for url in ("https://internal.example", "http://box.lan:8000", "http://10.1.2.3", "http://localhost:1"):
        assert proxy_for(url) is None


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.1.2.3", "::1", "0.0.0.0"])
def test_own_address_is_known_by_name_and_number(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["example.com", "10.0.0.1", "localhost.example", "", "127.0.0.1.example"])
def test_other_address_is_not_this_machines(host):
    assert not is_loopback(host)


def test_password_is_not_shown():
    assert shown("http://me:pass@word@proxy:3128") == "http://proxy:3128"


def test_given_transport_is_used_whatever_the_environment_says(environment):
    environment(ALL_PROXY="socks5://127.0.0.1:9")
    transport = httpx.MockTransport(lambda request: httpx.Response(200))
    assert Client("http://openset.example", transport=transport).ready()
