"""Requests to the hub: the proxy follows each request's address, and a listing is bounded."""

import httpx2
import pytest

from models import hub_client
from models.hub_client import HubUnreachable, ProxyTransport, use_own_client


@pytest.fixture
def chosen(monkeypatch):
    """The proxies of the transports that were made."""
    proxies = []

    class Transport(httpx2.MockTransport):
        def __init__(self, proxy):
            proxies.append(proxy)
            super().__init__(lambda request: httpx2.Response(200, content=iter([b"x" * 500] * 4)))

    monkeypatch.setattr("models.hub_client.httpx2.HTTPTransport", Transport)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:1")
    monkeypatch.setenv("NO_PROXY", "[::1],cdn.example")
    return proxies


def test_proxy_follows_the_address(chosen):
    with httpx2.Client(transport=ProxyTransport(), trust_env=False) as client:
        for url in ("https://hub.example", "https://cdn.example", "http://localhost:1", "https://other.example"):
            assert client.get(url).status_code == 200
    assert chosen == ["http://proxy:1", None]


def test_listing_that_does_not_end_is_refused_and_a_file_is_not(chosen, monkeypatch):
    monkeypatch.setattr(hub_client, "MAX_LISTING", 1000)
    with httpx2.Client(transport=ProxyTransport(), trust_env=False) as client:
        assert len(client.get("https://hub.example/a/resolve/main/x").content) == 2000
        with pytest.raises(ValueError, match="its listing has more than 1000 bytes"):
            client.get("https://hub.example/api/models/a/revision/main")


@pytest.mark.parametrize("proxy", ["socks5://me:secret@proxy:1", "quic://me:secret@proxy:1", "http://me:secret@[::1"])
def test_proxy_that_cannot_be_used_is_named_without_its_password(monkeypatch, proxy):
    monkeypatch.setattr("models.hub_client.proxy_for", lambda url: proxy)
    with pytest.raises(HubUnreachable, match="which the environment names, cannot be used") as error:
        ProxyTransport().handle_request(httpx2.Request("GET", "http://hub.example"))
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("name", ["there is none", "no certificates"])
def test_certificates_that_cannot_be_read_are_told(monkeypatch, tmp_path, name):
    (tmp_path / "no certificates").write_text("no certificate")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / name))
    with pytest.raises(HubUnreachable, match="that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read"):
        ProxyTransport().handle_request(httpx2.Request("GET", "http://localhost"))


def test_library_uses_it():
    from huggingface_hub.utils import get_session

    use_own_client()
    assert isinstance(get_session()._transport, ProxyTransport)
