"""Calls in several threads, whose results come in order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


def map_in_order(ask: Callable[[Q], A], queries: Iterable[Q], *, parallel: int) -> Iterator[tuple[Q, A]]:
    """Yield each query with its answer, in order; at most `parallel` queries are drawn and asked ahead."""
    with ThreadPoolExecutor(parallel, thread_name_prefix="query") as threads:
        pending: deque[tuple[Q, Future[A]]] = deque()
        try:
            for query in queries:
                pending.append((query, threads.submit(ask, query)))
                if len(pending) == parallel:
                    first, future = pending.popleft()
                    yield first, future.result()
            while pending:
                first, future = pending.popleft()
                yield first, future.result()
        finally:
            for _, future in pending:
                future.cancel()
