"""Retry policy of a request: which failures are retried, after how long, and within which budget."""

import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

import httpx
from tenacity import (
    RetryCallState,
    retry_if_exception_type,
    retry_if_result,
    stop_after_attempt,
    stop_before_delay,
)

# Too busy, or not ready: the request was not worked on. All endpoints are pure, so a second run would do no harm.
RETRIED_STATUSES = frozenset({429, 503})
# A connection that failed. A server that is only slow (ReadTimeout) would get the same work twice.
_RETRIED_ERRORS = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)


@dataclass(frozen=True, kw_only=True)
class Retries:
    """Bounds of the attempts at one request, of which none begins `budget_s` seconds after the first or later.

    `max_attempts` counts the first one too. A `Retry-After` is never cut short: where it exceeds the budget, the
    refusal is raised at once. Without one, the wait doubles from `backoff_s` up to `max_backoff_s`, with jitter.
    """

    max_attempts: int = 5
    budget_s: float = 60.0
    backoff_s: float = 0.5
    max_backoff_s: float = 8.0

    def __post_init__(self) -> None:
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, got {self.max_attempts}")
        for name in ("budget_s", "backoff_s", "max_backoff_s"):
            if not getattr(self, name) >= 0:  # NaN neither
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    @classmethod
    def of(cls, value: "Retries | int") -> "Retries":
        """Convert a number of attempts after the first."""
        return value if isinstance(value, Retries) else cls(max_attempts=value + 1)

    def wait(self, attempt: int, retry_after: float | None, jitter: float) -> float:
        """Seconds after `attempt` (from 1): at least `retry_after`, and spread by `jitter`, a number from 0 to 1."""
        if retry_after is not None:
            return retry_after + self.backoff_s * jitter
        return min(self.max_backoff_s, self.backoff_s * 2.0 ** min(attempt - 1, 60)) * (1 + jitter) / 2

    def policy(self) -> dict[str, Any]:
        """Arguments for tenacity's `Retrying` and `AsyncRetrying` around `send` of an httpx client.

        After the last attempt they return its response or raise its error.
        """

        return {
            "retry": retry_if_exception_type(_RETRIED_ERRORS)
            | retry_if_result(lambda response: response.status_code in RETRIED_STATUSES),
            "wait": self._wait,
            "stop": stop_after_attempt(self.max_attempts) | stop_before_delay(self.budget_s),
            "retry_error_callback": lambda state: state.outcome.result(),
        }

    def _wait(self, state: RetryCallState) -> float:
        assert state.outcome is not None, "there has been an attempt"
        after = None if state.outcome.failed else state.outcome.result().headers.get("retry-after")
        return self.wait(state.attempt_number, parse_retry_after(after, now=time.time()), random.random())


def parse_retry_after(value: str | None, *, now: float) -> float | None:
    """Seconds that a `Retry-After` header asks for, `now` being seconds since 1970; None where it cannot be read."""
    value = (value or "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
