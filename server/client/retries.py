"""When a request is sent again: its bounds, and the wait before it."""

import random
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import anyio
import httpx

from server.client.errors import ConnectionFailed
from server.client.steps import Pause, Send, Steps

# Too busy, or not ready: the request was not worked on. All endpoints are pure, so a second run would do no harm.
RETRIED_STATUSES = frozenset({429, 503})
# A connection that failed. A server that is only slow (ReadTimeout) would get the same work twice.
_RETRIED_ERRORS = (httpx.NetworkError, httpx.ConnectTimeout, httpx.RemoteProtocolError)


class Clock:
    """Time, sleep and chance; tests have their own."""

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return time.monotonic()

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()

    def chance(self) -> float:
        """A number from 0 to 1."""
        return random.random()

    def sleep(self, seconds: float) -> None:
        """Wait in this thread."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Wait in this task."""
        await anyio.sleep(seconds)


@dataclass(frozen=True, kw_only=True)
class Retries:
    """The bounds of one request: `attempts`, the first included, none of which begins after `within_s` seconds.

    Without a `Retry-After` the wait grows from `first_s` to `longest_s`.
    """

    attempts: int = 5
    within_s: float = 60.0
    first_s: float = 0.5
    longest_s: float = 8.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, got {self.attempts}")
        for name in ("within_s", "first_s", "longest_s"):
            if not getattr(self, name) >= 0:  # NaN neither
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")

    @classmethod
    def of(cls, value: "Retries | int") -> "Retries":
        """A number means so many attempts after the first."""
        return value if isinstance(value, Retries) else cls(attempts=value + 1)

    def wait(self, attempt: int, asked: float | None, chance: float) -> float:
        """Seconds before the attempt after this one (from 1): never less than `asked`, and never the same for all."""
        if asked is not None:
            return asked + self.first_s * chance
        return min(self.longest_s, self.first_s * 2.0 ** min(attempt - 1, 60)) * (1 + chance) / 2


def persistent(request: Send, retries: Retries, clock: Clock) -> Steps[httpx.Response]:
    """Send `request` until it is answered with anything but a refusal that may pass, or the bounds are reached."""
    give_up = clock.monotonic() + retries.within_s
    attempt = 0
    while True:
        attempt += 1
        response, failure, asked = None, None, None
        try:
            response = yield from request.sent()
        except _RETRIED_ERRORS as error:
            failure = error
        except httpx.RequestError as error:
            raise no_answer(error, attempt) from error
        if response is not None:
            if response.status_code not in RETRIED_STATUSES:
                return response
            asked = retry_after(response.headers.get("retry-after"), now=clock.now())
        wait = retries.wait(attempt, asked, clock.chance())
        if attempt >= retries.attempts or clock.monotonic() + wait > give_up:
            if response is not None:
                return response
            assert failure is not None, "an attempt gives a response or fails"
            raise no_answer(failure, attempt) from failure
        yield Pause(wait)


def no_answer(error: httpx.RequestError, attempts: int) -> ConnectionFailed:
    """httpx's error as ours."""
    times = f" after {attempts} attempts" if attempts > 1 else ""
    return ConnectionFailed(f"{error.request.url} gave no answer{times}: {str(error) or type(error).__name__}")


def retry_after(value: str | None, *, now: float) -> float | None:
    """The seconds that a `Retry-After` header means, given the seconds since 1970; None where it cannot be read."""
    value = (value or "").strip()
    if value.isascii() and value.isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
