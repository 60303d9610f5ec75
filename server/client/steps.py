"""A call as steps that it yields and does not take: one description, carried out by both clients.

Each step is answered with its outcome; where it fails, the error is thrown into the call.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

import httpx

T = TypeVar("T")
Fields = Mapping[str, str | list[str]]


@dataclass(frozen=True)
class Send:
    """Send this request, once; the outcome is its response."""

    method: str
    path: str
    form: Fields = field(default_factory=dict)
    files: Sequence[bytes] = ()
    json: Mapping[str, Any] | None = None

    def sent(self) -> "Steps[httpx.Response]":
        """This one step, with the type of its outcome."""
        response: httpx.Response = yield self
        return response

    def arguments(self) -> dict[str, Any]:
        """What httpx's `request` takes. A file has no name: its path is nobody's business."""
        files = [("image", ("image", data, "application/octet-stream")) for data in self.files]
        form = {"data": self.form, "files": files} if files else {}
        return {"method": self.method, "url": self.path, "json": self.json} | form


@dataclass(frozen=True)
class Pause:
    """Wait; there is no outcome."""

    seconds: float


@dataclass(frozen=True)
class Work(Generic[T]):
    """Run this, where it may block; the outcome is what it returns."""

    run: Callable[[], T]

    def done(self) -> "Steps[T]":
        """This one step, with the type of its outcome."""
        result: T = yield self
        return result


Step = Send | Pause | Work[Any]
Steps = Generator[Step, Any, T]


class Walk(Generic[T]):
    """Where a call stands: at its next step, or at its end with its result."""

    result: T

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self.step: Step | None = None
        self._go(partial(next, steps))

    def went(self, outcome: object) -> None:
        """The step has been taken."""
        self._go(partial(self._steps.send, outcome))

    def failed(self, error: Exception) -> None:
        """The step has failed."""
        self._go(partial(self._steps.throw, error))

    def _go(self, on: Callable[[], Step]) -> None:
        try:
            self.step = on()
        except StopIteration as end:
            self.step, self.result = None, end.value
