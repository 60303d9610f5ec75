"""Proxies that the environment names (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY), for any value of them.

httpx reads the variables itself, but fails with errors of its own on `NO_PROXY=[::1]` and `ALL_PROXY=socks5://…`, and
sends requests to this machine's own address through the proxy.
"""

import ipaddress
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx

from openset.errors import ConnectionFailed


def proxy_for(url: str) -> str | None:
    """The proxy for an address; None for this machine's own, and where the environment names none."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if is_loopback(host):
        return None
    named = getproxies()
    proxy = named.get(parts.scheme) or named.get("all")
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def is_loopback(host: str) -> bool:
    """True for names and numbers of this machine's own address."""
    name = host.lower().strip("[]").rstrip(".")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def options_for(address: httpx.URL, transport: Any) -> dict[str, Any]:
    """Arguments for httpx's clients; `transport` replaces proxies and all."""
    if transport is not None:
        return {"transport": transport}
    # The proxies are ours; other variables, such as SSL_CERT_FILE, are read as ever.
    return {"proxy": proxy_for(str(address)), "verify": httpx.create_ssl_context(), "trust_env": False}


@contextmanager
def explained(url: str) -> Iterator[None]:
    """Raise ConnectionFailed, with a sentence, where a client cannot be made for the proxy of `url`."""
    try:
        yield
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        proxy = proxy_for(url)
        if proxy is None:
            raise
        reason = "for SOCKS install httpx[socks]" if isinstance(error, ImportError) else str(error).rstrip(".")
        raise ConnectionFailed(f"{url} is not asked: {unusable(proxy, reason)}") from error


def unusable(proxy: str, reason: str) -> str:
    """The part of a message on a proxy that no connection can be made through."""
    return (
        f"the proxy {shown(proxy)}, which the environment names, cannot be used ({reason}); NO_PROXY names the hosts"
        " that are reached without it"
    )


def note(url: str) -> str:
    """Words for an error that say which proxy the request took; empty without one."""
    proxy = proxy_for(url)
    return f" through the proxy {shown(proxy)}, which the environment names" if proxy else ""


def shown(proxy: str) -> str:
    """An address, such as a proxy's, without user and password."""
    scheme, separator, rest = proxy.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
