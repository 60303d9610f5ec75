"""SIGTERM under load: every request that reached the server gets its whole answer, and nobody new gets in.

    python -m tests.benchmarks.drain

Clients with kept connections, clients with a new connection for each request, uploads that take their time, and
requests of many images are all under way when the server is told to stop; the clients go on until they are turned away.
The server's log then tells which requests had reached it. The exit status is 1 where one of those has not got its
answer, where a client met anything but an answer or a refused connection, or where the server ended late or with
another status than 0.
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

from tests.benchmarks.asking import outcome
from tests.benchmarks.live import ROOT, LiveServer, serving
from tests.benchmarks.traffic import FORM, form

WITHIN_S = 60
FLAGS = ("--shutdown-timeout-s", str(WITHIN_S))
IMAGES = 16
WHO = {"kept connection": 8, "new connections": 8, "slow upload": 6, "many images": 2}  # together they fit in the queue
PIECES, PIECE_S = 10, 0.15  # of an upload that takes its time
NOBODY_IN = "refused"  # no connection was made
Body = bytes | AsyncIterator[bytes]


@dataclass(frozen=True)
class Sent:
    """A request by its id, who sent it, and what came of it."""

    request_id: str
    who: str
    answer: str


class Clients:
    """All who ask until they are turned away, and what they met."""

    def __init__(self, url: str) -> None:
        self.url, self.sent = url, list[Sent]()
        self._picture = (ROOT / "server/examples/object.jpg").read_bytes()
        self._body = form([("image", self._picture), ("labels", "dog")])
        self._trust = ssl.create_default_context()  # made once: it takes long, and is not used

    async def run(self) -> None:
        """All clients, until the last has been turned away."""
        several = form([*[("image", self._picture)] * IMAGES, ("labels", "dog")])
        sizes = {"Content-Length": str(len(self._body))}
        kinds: dict[str, tuple[dict[str, str], Callable[[], Body]]] = {
            "kept connection": ({}, lambda: self._body),
            "new connections": ({"Connection": "close"}, lambda: self._body),
            "slow upload": (sizes, self._slowly),
            "many images": ({}, lambda: several),
        }
        await asyncio.gather(*(self._going_on(who, *kinds[who]) for who, count in WHO.items() for _ in range(count)))

    async def _going_on(self, who: str, headers: dict[str, str], body: Callable[[], Body]) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=WITHIN_S, verify=self._trust) as client:
            answer = ""
            while answer in ("", "200") or answer.startswith("429"):
                answer = await self._ask(client, who, headers, body())

    async def _slowly(self) -> AsyncIterator[bytes]:
        size = -(-len(self._body) // PIECES)
        for start in range(0, len(self._body), size):
            yield self._body[start : start + size]
            await asyncio.sleep(PIECE_S)

    async def _ask(self, client: httpx.AsyncClient, who: str, headers: dict[str, str], body: Body) -> str:
        request_id = uuid.uuid4().hex
        sent = {"Content-Type": FORM, "X-Request-ID": request_id} | headers
        try:
            answer = outcome(await client.post("/detect", content=body, headers=sent))
        except httpx.ConnectError:
            answer = NOBODY_IN
        except httpx.TransportError as error:
            answer = f"lost ({type(error).__name__}: {error})"
        self.sent.append(Sent(request_id, who, answer))
        return answer


@dataclass(frozen=True)
class Drained:
    """What became of all requests.

    `before` of them were over when the server was told to stop; `reached` are in its log, with their status.
    """

    sent: Sequence[Sent]
    before: int
    reached: dict[str, str]
    status: int
    seconds: float

    @property
    def unanswered(self) -> list[Sent]:
        """Requests that the server knows of and whose answer their client does not."""
        return [one for one in self.sent if one.answer[:3] != self.reached.get(one.request_id, one.answer[:3])]

    @property
    def lost(self) -> list[Sent]:
        """Clients who met neither an answer nor a refused connection."""
        return [one for one in self.sent if one.answer.startswith(("lost", "5"))]

    @property
    def answered_late(self) -> set[str]:
        """The kinds of clients of whom one was answered after the server had been told to stop."""
        return {one.who for one in self.sent[self.before :] if one.answer == "200"}


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=str(__doc__).splitlines()[0]).parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder), *FLAGS) as server:
        return _report(asyncio.run(drain(server)))


async def drain(server: LiveServer) -> Drained:
    """Load `server` with clients of every kind, tell it to stop, and see what becomes of them."""
    clients = Clients(server.url)
    asking = asyncio.create_task(clients.run())
    while not asking.done() and {one.who for one in clients.sent if one.answer == "200"} != set(WHO):
        await asyncio.sleep(0.05)
    before = len(clients.sent)
    server.terminate()
    told = time.monotonic()
    status = await asyncio.to_thread(server.process.wait, 3 * WITHIN_S)
    seconds = time.monotonic() - told
    await asking
    logged = [json.loads(line) for line in server.log.read_text(encoding="utf-8").splitlines()]
    reached = {line["request_id"]: str(line["status"]) for line in logged if "endpoint" in line}
    return Drained(clients.sent, before, reached, status, seconds)


def _report(drained: Drained) -> int:
    print(f"{drained.before} requests were over when the server was told to stop; what came of the others:")
    late = drained.sent[drained.before :]
    for (who, answer), count in sorted(Counter((one.who, one.answer) for one in late).items()):
        print(f"{count:6d}  {who}: {answer}")
    print(f"the server ended {drained.seconds:.1f} s after it was told, with status {drained.status}")
    faults = {
        f"reached the server and got no answer: {drained.unanswered}": bool(drained.unanswered),
        f"met neither an answer nor a refused connection: {drained.lost}": bool(drained.lost),
        f"only these were answered late: {drained.answered_late}": drained.answered_late != set(WHO),
        f"status {drained.status}": drained.status != 0,
        f"ended after {drained.seconds:.1f} s, not within {WITHIN_S}": drained.seconds > WITHIN_S,
    }
    wrong = [f"WRONG: {fault}" for fault, there in faults.items() if there]
    print("\n".join(wrong) or "nothing wrong", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
