"""HTTP of the hub's library: proxies as our own clients take them, and bounded answers where no file is fetched."""

from collections.abc import Iterator

import httpx2
from huggingface_hub import set_client_factory

from models import printable
from models.model_zoo import Official
from openset.proxies import note, proxy_for, shown, unusable

# A repository's listing; one of a thousand files has less than 1 MB.
MAX_LISTING = 32 * 2**20
SAVED = "downloaded data is kept, and the same command resumes there"


class HubError(Exception):
    """A checkpoint that could not be fetched; the message says why and what to do."""


class HubUnreachable(HubError):
    """The hub, or where it keeps its files, could not be asked."""


class HubAddress:
    """Address of a hub, `url`; HubError where it is none. `shown` lacks a password, `host` is its name alone."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.shown, self.host = shown(self.url), _host(self.url)
        if self.host is None:
            raise HubError(f"HF_ENDPOINT is {self.shown!r}; an address such as https://huggingface.co is expected")

    @property
    def way(self) -> str:
        """Words for the proxy through which it is asked; empty without one."""
        return note(self.url)

    def refusal(self, response: httpx2.Response, official: Official) -> HubError:
        """The refusal of the hub, of where it keeps its files, or of a proxy, as a sentence."""
        status, repository, endpoint = response.status_code, official.repository, self.shown
        if status == 407:
            proxy = shown(proxy_for(str(response.url)) or "on the way")
            return HubUnreachable(
                f"the proxy {proxy} asks for a login (407): name it with both, as http://user:password@host"
            )
        if response.url.host != self.host:
            return HubUnreachable(
                f"{response.url.host}, where {endpoint} keeps its files, answers {status}{note(str(response.url))}: try"
                f" again later, and see that no firewall keeps it out; {SAVED}"
            )
        if status in (401, 403):
            return HubError(
                f"{endpoint} denies access to {repository}{note(str(response.url))} ({status}): there is none of this"
                f" name, or it is gated or private. Ask for access at {endpoint}/{repository}, and set HF_TOKEN to a"
                " token with access"
            )
        if status == 404:
            return HubError(f"{endpoint} has no {repository} at {official.revision}, or not the required files (404)")
        if status == 429:
            after = printable(response.headers.get("Retry-After", ""))
            wait = f" in {after} s" if after else " later"
            return HubError(f"{endpoint} gets too many requests from this address (429): try again{wait}; {SAVED}")
        what_to_do = f"try again later; {SAVED}" if status >= 500 else "are HF_ENDPOINT and HF_TOKEN right?"
        return HubError(f"{endpoint} answers {status} for {repository}: {what_to_do}")


def _host(endpoint: str) -> str | None:
    """The host of an address of the web, None where it is none."""
    try:
        url = httpx2.URL(endpoint)
    except httpx2.InvalidURL:
        return None
    return url.host or None if url.scheme in ("http", "https") else None


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
        raise HubUnreachable(f"the hub is not asked: {unusable(proxy, reason)}") from error


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
