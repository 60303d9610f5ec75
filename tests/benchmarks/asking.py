"""Sends the requests of `traffic`: over kept or new connections, or leaving in their midst."""

import asyncio
import random
from urllib.parse import urlsplit

import httpx

from tests.benchmarks.traffic import Asked

ANSWERED_WITHIN_S = 300
_LONGEST_WAIT_S = 0.05


class Asker:
    """A client of `url`; every third request has a connection of its own."""

    def __init__(self, url: str, seed: int) -> None:
        self._url, self._random = url, random.Random(seed)
        unlimited = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        self._kept = httpx.AsyncClient(base_url=url, timeout=ANSWERED_WITHIN_S, limits=unlimited)

    async def close(self) -> None:
        """Close the kept connections."""
        await self._kept.aclose()

    async def ask(self, asked: Asked) -> tuple[str, str]:
        """What the answer was, in the words of `Asked.answers`, and its text where it is a problem."""
        if asked.leaves:
            await self._leave(asked)
            return "left", ""
        headers = asked.headers | ({"Connection": "close"} if self._random.randrange(3) == 0 else {})
        try:
            answer = await self._kept.request(asked.method, asked.path, content=asked.content, headers=headers)
        except httpx.TransportError as error:
            return f"no answer ({type(error).__name__})", str(error)
        return outcome(answer), answer.text if answer.status_code >= 400 else ""

    async def _leave(self, asked: Asked) -> None:
        address = urlsplit(self._url)
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        head = httpx.Request(asked.method, self._url + asked.path, headers=asked.headers, content=asked.content)
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.headers.items())
        writer.write(f"{asked.method} {asked.path} HTTP/1.1\r\n{lines}\r\n".encode())
        size = len(asked.content)
        writer.write(asked.content[: self._random.randrange(size) if asked.leaves == "upload" else size])
        await asyncio.wait_for(writer.drain(), ANSWERED_WITHIN_S)
        await asyncio.sleep(self._random.random() * _LONGEST_WAIT_S)
        if self._random.randrange(2):
            writer.transport.abort()  # a reset, where closing would say good-bye
        writer.close()


def outcome(answer: httpx.Response) -> str:
    """The status, and for a problem the end of its type; what is no problem and should be one says so."""
    if answer.status_code < 400:
        return str(answer.status_code)
    if answer.headers.get("content-type") != "application/problem+json":
        return f"{answer.status_code} without a problem"
    return f"{answer.status_code} {answer.json()['type'].removeprefix('urn:openset:problem:')}"
