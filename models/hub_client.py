"""HTTP of the hub's library: proxies as our own clients take them, and bounded answers where no file is fetched."""

from collections.abc import Iterator

import httpx2
from huggingface_hub import set_client_factory

from openset.proxies import proxy_for, shown

# A repository's listing; one of a thousand files has less than 1 MB.
MAX_LISTING = 32 * 2**20


class HubError(Exception):
    """A checkpoint that could not be fetched; the message says why and what to do."""


class HubUnreachable(HubError):
    """The hub, or where it keeps its files, could not be asked."""


def use_own_client() -> None:
    """Let `huggingface_hub` make its requests through `ProxyTransport`."""
    set_client_factory(
        lambda: httpx2.Client(transport=ProxyTransport(), trust_env=False, follow_redirects=True, timeout=None)
    )


class ProxyTransport(httpx2.BaseTransport):
    """Transport that chooses the proxy of each request by its address, as a redirect may lead to another host."""

    def __init__(self) -> None:
        self._transports: dict[str | None, httpx2.HTTPTransport] = {}

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        proxy = proxy_for(str(request.url))
        if proxy not in self._transports:
            self._transports[proxy] = _transport(proxy)
        response = self._transports[proxy].handle_request(request)
        if request.url.path.startswith("/api/models/"):
            response.stream = _BoundedStream(response.stream)
        return response

    def close(self) -> None:
        for transport in self._transports.values():
            transport.close()


def _transport(proxy: str | None) -> httpx2.HTTPTransport:
    """Transport through a proxy; HubUnreachable names one that cannot be used, or certificates that cannot be read."""
    try:
        return httpx2.HTTPTransport(proxy=proxy)
    except OSError as error:
        raise HubUnreachable(
            f"the hub is not asked: the certificates that SSL_CERT_FILE or SSL_CERT_DIR names cannot be read ({error})"
        ) from error
    except (ImportError, ValueError, httpx2.InvalidURL) as error:
        if proxy is None:
            raise
        reason = "SOCKS needs httpx2[socks]" if isinstance(error, ImportError) else str(error).rstrip(".")
        raise HubUnreachable(
            f"the hub is not asked: the proxy {shown(proxy)}, which the environment names, cannot be used ({reason});"
            " NO_PROXY names the hosts that are reached without it"
        ) from error


class _BoundedStream(httpx2.SyncByteStream):
    def __init__(self, stream: object) -> None:
        assert isinstance(stream, httpx2.SyncByteStream), "the transport is synchronous"
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        count = 0
        for chunk in self._stream:
            count += len(chunk)
            if count > MAX_LISTING:
                raise ValueError(f"its listing has more than {MAX_LISTING} bytes")
            yield chunk

    def close(self) -> None:
        self._stream.close()
