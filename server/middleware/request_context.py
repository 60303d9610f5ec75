"""Who asks, and what became of it: what is known of a request outside its body."""

import re
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

from server.errors import FieldFault, InvalidRequest
from server.inference.fair_queue import PRIORITIES, Priority
from server.telemetry.tracing import Trace

REQUEST_ID = "X-Request-ID"
PRIORITY = "X-Priority"
TIMEOUT = "X-Request-Timeout-Ms"
MAX_TIMEOUT_MS = 3_600_000
_WHOLE = re.compile(r"[0-9]{1,10}")
_USABLE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass
class RequestContext:
    """One request's caller; whoever answers notes the rest."""

    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    client: str = ""  # the name of its key, else its address
    admin: bool = False  # whether its key may change what is served
    priority: Priority = "interactive"
    timeout_s: float | None = None  # what the client gives the request, from its arrival on
    model: str = ""
    timings_ms: dict[str, float] = field(default_factory=dict)  # as in the answer, and "fetch" before it
    trace: Trace = field(default_factory=Trace)
    inputs: Mapping[str, Any] | None = None  # what was asked, where the operator wants it logged

    @classmethod
    def of(cls, scope: Scope) -> "RequestContext":
        """The caller of a request, as far as its connection and headers tell.

        A request id that does not fit into one line of a log is replaced.
        """
        given = Headers(scope=scope).get(REQUEST_ID, "")
        client = scope["client"][0] if scope.get("client") else ""
        return cls(given, client) if _USABLE_ID.fullmatch(given) else cls(client=client)

    def read_wishes(self, headers: Headers) -> None:
        """Take the priority and the deadline; InvalidRequest for what is none."""
        faults = []
        wished = headers.get(PRIORITY, self.priority).strip().lower()
        for name in PRIORITIES:
            if name == wished:
                self.priority = name
        if self.priority != wished:
            faults.append(FieldFault(PRIORITY, f"a priority is one of {', '.join(PRIORITIES)}"))
        given = headers.get(TIMEOUT)
        if given is not None:
            if _WHOLE.fullmatch(given.strip()) and 1 <= int(given) <= MAX_TIMEOUT_MS:
                self.timeout_s = int(given) / 1000
            else:
                faults.append(FieldFault(TIMEOUT, f"this is a whole number of milliseconds, 1 to {MAX_TIMEOUT_MS}"))
        if faults:
            raise InvalidRequest(faults)


# The caller whose request is being answered, for the lines of the log.
current: ContextVar[RequestContext | None] = ContextVar("request_context", default=None)


def request_context(scope: Scope) -> RequestContext:
    """The caller that the gate noted."""
    context: RequestContext = scope["state"]["request_context"]
    return context
