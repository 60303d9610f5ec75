"""SSRF check: public addresses pass, all others are refused in every notation."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.middleware.ssrf import is_public


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1"]
)
def test_public_address_is_accepted(address):
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1",
        "169.254.169.254",  # the metadata of most clouds
        "168.63.129.16",  # and of Azure's hosts, under a public number
        "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.88.99.1", "192.0.2.1", "198.18.0.1", "203.0.113.9",
        "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "fe80::1", "fe80::1%eth0", "2606:4700::1111%eth0", "fc00::1", "fd00:ec2::254", "fec0::1",
        "ff02::1", "2001:db8::1", "3fff::1", "100::1", "5f00::1",
        "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:168.63.129.16", "::127.0.0.1",
        "64:ff9b::127.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::a00:1", "2002:7f00:1::", "2002:a00:1::1",
        "2001:0:7f00:1::1",
        "", "localhost", "127.1", "2130706433", "0x7f000001", "1.1.1.1:80",
    ],
)  # fmt: skip
def test_other_address_is_refused(address):
    assert not is_public(address)


@given(st.ip_addresses(v=4))
def test_carried_address_is_judged_like_itself(address):
    for carrier in ("::ffff:0:0", "64:ff9b::"):
        carried = ipaddress.IPv6Address(int(ipaddress.IPv6Address(carrier)) | int(address))
        assert is_public(str(carried)) == is_public(str(address))
        assert not is_public(str(address)) or address.is_global
