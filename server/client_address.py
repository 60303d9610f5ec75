"""Clients by address: one that takes turns may own many addresses, so an IPv6 client is its /64."""

import ipaddress
from functools import lru_cache

# Prefix lengths by IP version. A site is given an IPv6 /64 at least, and often a /48.
_CLIENT = {4: 32, 6: 64}
_NETWORK = {4: 24, 6: 48}
_MAX_LENGTH = 64  # of text that is no address


@lru_cache(4096)
def client_of(address: str) -> str:
    """The client behind an address: an IPv4 address, also one written as IPv6, or the IPv6 /64; other text as it is."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address[:_MAX_LENGTH]
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return str(ip) if ip.version == 4 else _network(str(ip), _CLIENT)


@lru_cache(4096)
def network_of(client: str) -> str:
    """The network that a client shares its turns with: the /24 or /48 of an address; the name of a key is its own."""
    try:
        return _network(client.partition("/")[0], _NETWORK)
    except ValueError:
        return client


def _network(address: str, lengths: dict[int, int]) -> str:
    length = lengths[ipaddress.ip_address(address).version]
    return str(ipaddress.ip_network(f"{address}/{length}", strict=False))
