"""Clients by address: whoever owns a prefix of IPv6 is one client, and neighbours share a network."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.client_address import client_of, network_of
from server.request_context import RequestContext


@pytest.mark.parametrize(
    ("address", "client", "network"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.0/24"),
        ("::ffff:c000:207", "192.0.2.7", "192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64", "2001:db8:1::/48"),
        ("fe80::1%eth0", "fe80::/64", "fe80::/48"),
        ("::1", "::/64", "::/48"),
        ("testclient", "testclient", "testclient"),
        ("", "", ""),
    ],
)
def test_client_and_network_of_an_address(address, client, network):
    assert (client_of(address), network_of(client_of(address))) == (client, network)


def test_name_of_a_key_is_a_network_of_its_own():
    assert network_of("alice@example.com") == "alice@example.com"


def test_text_that_is_no_address_is_bounded():
    assert len(client_of("x" * 10_000)) == 64


@given(st.ip_addresses(v=6, network="2001:db8:1:2::/64"))
def test_every_address_of_a_64_is_one_client(address):
    assert client_of(str(address)) == client_of(address.exploded) == "2001:db8:1:2::/64"


@given(st.ip_addresses())
def test_client_is_its_own_client_and_lies_in_its_network(address):
    client = client_of(str(address))
    assert client_of(client) == client
    assert ipaddress.ip_network(client).subnet_of(ipaddress.ip_network(network_of(client)))


def test_client_of_a_request_is_that_of_its_address():
    context = RequestContext.of({"type": "http", "headers": [], "client": ("2001:db8::1", 40000)})
    assert context.client == "2001:db8::/64"
