"""Admission of requests: a place among those in progress, and a share of the memory for bodies and answers."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.errors import TooManyRequests
from server.memory.client_shares import ClientShares
from server.request_context import RequestContext
from server.settings import Settings


class Admission:
    """The places and the memory that all requests share, parts of jobs among them; `retry_after` in seconds."""

    def __init__(self, settings: Settings, *, retry_after: Callable[[], int]) -> None:
        limit = settings.max_inflight_requests
        self._places = ClientShares(limit, kept=limit // 8)
        self._memory = ClientShares(settings.body_bytes, kept=settings.body_bytes // 4)
        self._retry_after = retry_after

    @contextmanager
    def place(self, context: RequestContext) -> Iterator[None]:
        """Hold a place for the block, and give the request its share of memory; TooManyRequests if there is none."""
        place = self._places.hold(context.client)
        try:
            if not place.resize(1):
                whose = "" if self._places.used == self._places.total else "your share of "
                raise TooManyRequests(
                    f"{whose}{self._places.total} requests are in progress, the limit", retry_after=self._retry_after()
                )
            with self.memory(context):
                yield
        finally:
            place.release()

    @contextmanager
    def memory(self, context: RequestContext) -> Iterator[None]:
        """Give a request its share of memory for the block; one that only fetches an answer needs no place."""
        context.memory = self._memory.hold(context.client)
        try:
            yield
        finally:
            context.memory.release()
