"""Request context: id, client, priority, deadline, stage times, and the fields that logs and traces report."""

import asyncio
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from starlette.datastructures import Headers
from starlette.types import Scope

from server.client_address import client_of
from server.errors import FieldFault, InvalidRequest, MemoryExhausted
from server.memory.client_shares import Holding
from server.telemetry.stage_timer import StageTimer

Priority = Literal["interactive", "batch"]
PRIORITIES: tuple[Priority, ...] = get_args(Priority)
REQUEST_ID = "X-Request-ID"
PRIORITY = "X-Priority"
TIMEOUT = "X-Request-Timeout-Ms"
MAX_TIMEOUT_MS = 3_600_000
RETRY_AFTER_S = 2  # where memory for bodies is short: those that hold it are at work, or end by their pace
_WHOLE = re.compile(r"[0-9]{1,10}")
_USABLE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass
class RequestContext:
    """Facts about one request besides its body; the inference code fills in `model` and `timer`."""

    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    endpoint: str = ""  # name of the route, as in the metrics
    client: str = ""  # name of the API key, else the address, in IPv6 its /64
    admin: bool = False  # whether the API key may change which bundles are served
    priority: Priority = "interactive"
    timeout_s: float | None = None  # deadline that the client set, from arrival on
    model: str = ""
    timer: StageTimer = field(default_factory=StageTimer)
    inputs: Mapping[str, Any] | None = None  # the request's fields, where the operator wants them logged
    image_names: tuple[str, ...] = ()  # in errors, where images have names of their own
    memory: Holding | None = None  # of the memory for bodies and answers
    _arrived: float = 0.0
    _limit: asyncio.Timeout | None = None

    @classmethod
    def of(cls, scope: Scope, *, endpoint: str = "") -> "RequestContext":
        """The context that an ASGI scope gives, before any key is checked.

        A request id that does not fit into one line of a log is replaced.
        """
        given = Headers(scope=scope).get(REQUEST_ID, "")
        client = client_of(scope["client"][0]) if scope.get("client") else ""
        made = cls(endpoint=endpoint, client=client)
        return replace(made, request_id=given) if _USABLE_ID.fullmatch(given) else made

    def deadline(self) -> asyncio.Timeout:
        """The time limit of the request's work, from now on; `shorten` may bring it nearer."""
        self._arrived = asyncio.get_running_loop().time()
        self._limit = asyncio.timeout(self.timeout_s)
        return self._limit

    def shorten(self, timeout_s: float) -> None:
        """Bring the deadline to `timeout_s` after the arrival of the request, unless it is nearer."""
        if self.timeout_s is None or timeout_s < self.timeout_s:
            self.timeout_s = timeout_s
            if self._limit:
                self._limit.reschedule(self._arrived + timeout_s)

    @property
    def held_bytes(self) -> int:
        """Bytes of memory that the request holds for its body or its answer."""
        return self.memory.amount if self.memory else 0

    def hold(self, size: int) -> None:
        """Hold `size` bytes for the request's body or its answer; MemoryExhausted if they are not free."""
        if self.memory and not self.memory.resize(size):
            raise MemoryExhausted(
                f"bodies and answers of requests in progress leave no room for {size} bytes", retry_after=RETRY_AFTER_S
            )

    @property
    def trace_id(self) -> str:
        """The id of the request's trace, empty where it is not traced."""
        return self.timer.trace.trace_id

    def read_scheduling(self, headers: Headers) -> None:
        """Set priority and deadline from their headers; InvalidRequest names a header with another value."""
        faults = []
        given = headers.get(PRIORITY, self.priority).strip().lower()
        for name in PRIORITIES:
            if name == given:
                self.priority = name
        if self.priority != given:
            faults.append(FieldFault(PRIORITY, f"a priority is one of {', '.join(PRIORITIES)}"))
        timeout = headers.get(TIMEOUT)
        if timeout is not None:
            if _WHOLE.fullmatch(timeout.strip()) and 1 <= int(timeout) <= MAX_TIMEOUT_MS:
                self.timeout_s = int(timeout) / 1000
            else:
                faults.append(FieldFault(TIMEOUT, f"this is a whole number of milliseconds, 1 to {MAX_TIMEOUT_MS}"))
        if faults:
            raise InvalidRequest(faults)


def request_context(scope: Scope) -> RequestContext:
    """The context that the middleware stored in an ASGI scope."""
    context: RequestContext = scope["state"]["request_context"]
    return context
