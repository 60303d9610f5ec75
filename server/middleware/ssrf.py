"""SSRF protection: only addresses of the public internet may be connected to, however they are written."""

import ipaddress

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
# IPv6 addresses with an IPv4 address in their last 32 bits, to which packets really go.
_IPV4_EMBEDDED = tuple(map(ipaddress.IPv6Network, ("::ffff:0:0/96", "64:ff9b::/96")))
# Refused whatever Python's own list says: tunnels and local translation, whose target a router chooses; protocol
# assignments (one is Oracle Cloud's metadata service), documentation, and the wire server of Azure machines.
_REFUSED = [
    ipaddress.ip_network(network)
    for network in (
        *("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "::/96", "64:ff9b:1::/48", "100::/64", "2001::/23"),
        *("2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10"),
    )
]


def is_public(address: str) -> bool:
    """True for an address of the public internet; of an embedded IPv4 address, that one is checked."""
    try:
        ip: IPAddress = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id:
            return False
        if any(ip in network for network in _IPV4_EMBEDDED):
            ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    if any(ip in network for network in _REFUSED):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_loopback or ip.is_link_local)
