"""HTTP load client for the requests of `traffic`: keep-alive or new connections, and disconnects halfway."""

import asyncio
import random
from urllib.parse import urlsplit

import httpx

from tests.benchmarks.traffic import RequestCase

ANSWERED_WITHIN_S = 300
_LONGEST_WAIT_S = 0.05


class LoadClient:
    """Client of `url`; every third request opens its own connection."""

    def __init__(self, url: str, seed: int) -> None:
        self._url, self._random = url, random.Random(seed)
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._kept = httpx.AsyncClient(base_url=url, timeout=ANSWERED_WITHIN_S, limits=unlimited)

    async def close(self) -> None:
        """Close the keep-alive connections."""
        await self._kept.aclose()

    async def send(self, case: RequestCase) -> tuple[str, str]:
        """Send `case`; its outcome, in the terms of `RequestCase.accepted`, and the text of a problem."""
        if case.disconnects:
            await self._disconnect(case)
            return "left", ""
        headers = case.headers | ({"Connection": "close"} if self._random.randrange(3) == 0 else {})
        try:
            answer = await self._kept.request(case.method, case.path, content=case.content, headers=headers)
        except httpx.TransportError as error:
            return f"no answer ({type(error).__name__})", str(error)
        return outcome(answer), answer.text if answer.status_code >= 400 else ""

    async def _disconnect(self, case: RequestCase) -> None:
        address = urlsplit(self._url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        head = httpx.Request(case.method, self._url + case.path, headers=case.headers, content=case.content)
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.headers.items())
        writer.write(f"{case.method} {case.path} HTTP/1.1\r\n{lines}\r\n".encode())
        size = len(case.content)
        writer.write(case.content[: self._random.randrange(size) if case.disconnects == "upload" else size])
        await asyncio.wait_for(writer.drain(), ANSWERED_WITHIN_S)
        await asyncio.sleep(self._random.random() * _LONGEST_WAIT_S)
        if self._random.randrange(2):
            writer.transport.abort()  # a reset instead of an orderly close
        writer.close()


def outcome(answer: httpx.Response) -> str:
    """The status, and for an error the last part of its problem type, or that it is not a problem document."""
    if answer.status_code < 400:
        return str(answer.status_code)
    if answer.headers.get("content-type") != "application/problem+json":
        return f"{answer.status_code} without a problem document"
    return f"{answer.status_code} {answer.json()['type'].removeprefix('urn:openset:problem:')}"
