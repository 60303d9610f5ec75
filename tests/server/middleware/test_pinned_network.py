"""Connections for downloads: to the one address that was checked, and of so many bytes and no more."""

import asyncio

import pytest
from httpcore import AsyncMockBackend, RemoteProtocolError

from server.middleware.pinned_network import MAX_HEAD_BYTES, Meter, PinnedNetwork


class Backend(AsyncMockBackend):
    async def connect_tcp(self, host, port, *rest, **options):
        self.connected = host, port
        return await super().connect_tcp(host, port, *rest, **options)


def test_connection_goes_to_the_address_whatever_host_is_named():
    backend = Backend([b"x"])
    asyncio.run(PinnedNetwork(backend, "203.0.113.7", Meter()).connect_tcp("inside.example", 443))
    assert backend.connected == ("203.0.113.7", 443)


@pytest.mark.parametrize("body", [0, 5000])
def test_bytes_end_with_the_meter(body):
    async def scene():
        meter = Meter()
        stream = await PinnedNetwork(Backend([b"x" * 100] * 10_000), "203.0.113.7", meter).connect_tcp("a", 443)
        if body:
            meter.allow_body(body)
        allowed, received = meter.left, 0
        while meter.left > 0:
            received += len(await stream.read(100))
        with pytest.raises(RemoteProtocolError):
            await stream.read(100)
        assert allowed <= received < allowed + 100
        assert allowed >= MAX_HEAD_BYTES + body

    asyncio.run(scene())
