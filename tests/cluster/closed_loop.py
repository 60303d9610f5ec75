"""Clients that ask, wait for the answer and ask again, without retries, and keep what became of each request."""

import http.client
import re
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple, Self

from tests.benchmarks.traffic import FORM, form

ANSWERED_WITHIN_S = 60
_TOTAL = re.compile(r"total;dur=([\d.]+)")
_PAUSE_S = 0.05  # after a connection that failed


class Outcome(NamedTuple):
    """Status of an answer, or the name of the error in its place; `ended` on the monotonic clock.

    server_s: of `seconds`, those that the server itself tells of.
    """

    ended: float
    seconds: float
    result: str
    retry_after: str | None
    server_s: float


@dataclass(frozen=True)
class Question:
    """A request that is sent again and again."""

    path: str
    body: bytes
    headers: Mapping[str, str]
    method: str = "POST"

    @classmethod
    def about(cls, path: str, picture: bytes, *labels: str, name: str = "labels", **headers: str) -> Self:
        """A form of one picture and these labels."""
        fields = [("image", picture), *((name, label) for label in labels)]
        return cls(path, form(fields), {"Content-Type": FORM, **headers})

    def ask(self, connection: http.client.HTTPConnection) -> tuple[http.client.HTTPResponse, bytes]:
        """The answer and its body."""
        connection.request(self.method, self.path, self.body, dict(self.headers))
        answer = connection.getresponse()
        return answer, answer.read()


class ClosedLoop:
    """`clients` that ask `question` at a port until they are stopped."""

    def __init__(self, port: int, question: Question, clients: int) -> None:
        self._port, self._question = port, question
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(clients)]
        self.outcomes: list[Outcome] = []
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(ANSWERED_WITHIN_S)
        self.seconds = time.monotonic() - self._began

    @property
    def counts(self) -> dict[str, int]:
        """Number of requests by their result."""
        return dict(Counter(outcome.result for outcome in list(self.outcomes)))

    @property
    def lost(self) -> int:
        """Requests that were not answered with 200."""
        return sum(count for result, count in self.counts.items() if result != "200")

    @property
    def longest_s(self) -> float:
        """Seconds of the slowest answer."""
        return max((outcome.seconds for outcome in self.outcomes), default=0.0)

    @property
    def rate(self) -> float:
        """Answers a second."""
        return self.counts.get("200", 0) / self.seconds

    @property
    def median_s(self) -> float:
        """Seconds of the median answer."""
        return median(outcome.seconds for outcome in self.outcomes if outcome.result == "200")

    @property
    def median_outside_s(self) -> float:
        """Seconds of the median answer that passed outside the server: on the way, and in what stands before it."""
        return median(outcome.seconds - outcome.server_s for outcome in self.outcomes if outcome.result == "200")

    def _work(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            began, retry_after, server_s = time.monotonic(), None, 0.0
            try:
                connection = connection or http.client.HTTPConnection(
                    "127.0.0.1", self._port, timeout=ANSWERED_WITHIN_S
                )
                answer, _ = self._question.ask(connection)
                result, retry_after = str(answer.status), answer.headers.get("Retry-After")
                if found := _TOTAL.search(answer.headers.get("Server-Timing", "")):
                    server_s = float(found[1]) / 1000
            except (OSError, http.client.HTTPException) as error:
                result = type(error).__name__
                if connection:
                    connection.close()
                connection = None
                time.sleep(_PAUSE_S)
            ended = time.monotonic()
            self.outcomes.append(Outcome(ended, ended - began, result, retry_after, server_s))
