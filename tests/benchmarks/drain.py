"""Graceful shutdown under load: after SIGTERM accepted requests are answered in full, new connections are refused.

    python -m tests.benchmarks.drain

Clients with keep-alive connections, clients with a new connection per request, slow uploads and requests of many images
are in flight when the server gets SIGTERM; they go on until they are refused. The server's log tells which requests had
reached it. The exit status is 1 if one of those was not answered, if a client met anything but an answer or a refused
connection, or if the server ended late or with a status other than 0.
"""

import argparse
import asyncio
import json
import ssl
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.benchmarks.live_server import ROOT, LiveServer, serving
from tests.benchmarks.load_client import outcome
from tests.benchmarks.traffic import FORM, form

TIMEOUT_S = 60
FLAGS = ("--shutdown-timeout-s", str(TIMEOUT_S))
IMAGES = 16
# Clients by kind; together they fit in the queue.
CLIENTS = {"keep-alive": 8, "new connections": 8, "slow upload": 6, "many images": 2}
CHUNKS, CHUNK_S = 10, 0.15  # of a slow upload
REFUSED = "refused"  # no connection was made
Body = bytes | AsyncIterator[bytes]


@dataclass(frozen=True)
class Sent:
    """One request: its id, the kind of its client, and its outcome."""

    request_id: str
    kind: str
    answer: str


class Clients:
    """Clients of every kind, sending until they are refused; `sent` records each request."""

    def __init__(self, url: str) -> None:
        self.url, self.sent = url, list[Sent]()
        self._picture = (ROOT / "server/examples/dog.jpg").read_bytes()
        self._body = form([("image", self._picture), ("labels", "dog")])
        self._trust = ssl.create_default_context()  # made once, since it is slow; not used

    async def run(self) -> None:
        """Run all clients until the last one is refused."""
        several = form([*[("image", self._picture)] * IMAGES, ("labels", "dog")])
        sizes = {"Content-Length": str(len(self._body))}
        kinds: dict[str, tuple[dict[str, str], Callable[[], Body]]] = {
            "keep-alive": ({}, lambda: self._body),
            "new connections": ({"Connection": "close"}, lambda: self._body),
            "slow upload": (sizes, self._slow_body),
            "many images": ({}, lambda: several),
        }
        await asyncio.gather(
            *(self._send_until_refused(kind, *kinds[kind]) for kind, count in CLIENTS.items() for _ in range(count))
        )

    async def _send_until_refused(self, kind: str, headers: dict[str, str], body: Callable[[], Body]) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=TIMEOUT_S, verify=self._trust) as client:
            answer = ""
            while answer in ("", "200") or answer.startswith("429"):
                answer = await self._send(client, kind, headers, body())

    async def _slow_body(self) -> AsyncIterator[bytes]:
        size = -(-len(self._body) // CHUNKS)
        for start in range(0, len(self._body), size):
            yield self._body[start : start + size]
            await asyncio.sleep(CHUNK_S)

    async def _send(self, client: httpx.AsyncClient, kind: str, headers: dict[str, str], body: Body) -> str:
        request_id = uuid.uuid4().hex
        sent = {"Content-Type": FORM, "X-Request-ID": request_id} | headers
        try:
            answer = outcome(await client.post("/detect", content=body, headers=sent))
        except httpx.ConnectError:
            answer = REFUSED
        except httpx.TransportError as error:
            answer = f"lost ({type(error).__name__}: {error})"
        self.sent.append(Sent(request_id, kind, answer))
        return answer


@dataclass(frozen=True)
class Drained:
    """Outcome of a drain: `before` of `sent` were over at SIGTERM; `reached` are the requests in the log, by status."""

    sent: Sequence[Sent]
    before: int
    reached: dict[str, str]
    status: int
    seconds: float

    @property
    def unanswered(self) -> list[Sent]:
        """Requests in the server's log whose client did not get that answer."""
        return [one for one in self.sent if one.answer[:3] != self.reached.get(one.request_id, one.answer[:3])]

    @property
    def lost(self) -> list[Sent]:
        """Requests that met neither an answer nor a refused connection."""
        return [one for one in self.sent if one.answer.startswith(("lost", "5"))]

    @property
    def answered_late(self) -> set[str]:
        """Kinds of clients that were answered after SIGTERM."""
        return {one.kind for one in self.sent[self.before :] if one.answer == "200"}


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=str(__doc__).splitlines()[0]).parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *FLAGS) as server:
        return _report(asyncio.run(drain(server)))


async def drain(server: LiveServer) -> Drained:
    """Load `server` with clients of every kind, send SIGTERM, and collect the outcomes."""
    clients = Clients(server.url)
    sending = asyncio.create_task(clients.run())
    while not sending.done() and {one.kind for one in clients.sent if one.answer == "200"} != set(CLIENTS):
        await asyncio.sleep(0.05)
    before = len(clients.sent)
    server.terminate()
    signalled = time.monotonic()
    status = await asyncio.to_thread(server.process.wait, 3 * TIMEOUT_S)
    seconds = time.monotonic() - signalled
    await sending
    logged = [json.loads(line) for line in server.log.read_text(encoding="utf-8").splitlines()]
    reached = {line["request_id"]: str(line["status"]) for line in logged if "endpoint" in line}
    return Drained(clients.sent, before, reached, status, seconds)


def _report(drained: Drained) -> int:
    print(f"{drained.before} requests were over at SIGTERM; outcomes of the others:")
    late = drained.sent[drained.before :]
    for (kind, answer), count in sorted(Counter((one.kind, one.answer) for one in late).items()):
        print(f"{count:6d}  {kind}: {answer}")
    print(f"the server ended {drained.seconds:.1f} s after SIGTERM, with status {drained.status}")
    faults = {
        f"reached the server and got no answer: {drained.unanswered}": bool(drained.unanswered),
        f"met neither an answer nor a refused connection: {drained.lost}": bool(drained.lost),
        f"only these were answered after SIGTERM: {drained.answered_late}": drained.answered_late != set(CLIENTS),
        f"status {drained.status}": drained.status != 0,
        f"ended after {drained.seconds:.1f} s, not within {TIMEOUT_S}": drained.seconds > TIMEOUT_S,
    }
    wrong = [f"WRONG: {fault}" for fault, found in faults.items() if found]
    print("\n".join(wrong) or "nothing wrong", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
