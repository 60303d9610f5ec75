"""Questions asked a few at once, answered in their order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


def in_order(ask: Callable[[Q], A], questions: Iterable[Q], *, parallel: int) -> Iterator[tuple[Q, A]]:
    """Each question with its answer; at most `parallel` are under way, and no more questions than that are drawn."""
    with ThreadPoolExecutor(parallel, thread_name_prefix="question") as threads:
        waiting: deque[tuple[Q, Future[A]]] = deque()
        try:
            for question in questions:
                waiting.append((question, threads.submit(ask, question)))
                if len(waiting) == parallel:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()
