"""Who asks, and what became of it: what is known of a request outside its body."""

import re
import uuid
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import Headers
from starlette.types import Scope

REQUEST_ID = "X-Request-ID"
_USABLE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass
class Caller:
    """One request's caller; whoever answers notes the rest."""

    request_id: str = field(default_factory=lambda: uuid.uuid4().hex)
    client: str = ""  # the name of its key, else its address
    model: str = ""
    timings_ms: Mapping[str, float] = field(default_factory=dict)  # as in the answer
    inputs: Mapping[str, Any] | None = None  # what was asked, where the operator wants it logged

    @classmethod
    def of(cls, scope: Scope) -> "Caller":
        """The caller of a request, as far as its connection and headers tell.

        A request id that does not fit into one line of a log is replaced.
        """
        given = Headers(scope=scope).get(REQUEST_ID, "")
        client = scope["client"][0] if scope.get("client") else ""
        return cls(given, client) if _USABLE_ID.fullmatch(given) else cls(client=client)


# The caller whose request is being answered, for the lines of the log.
current: ContextVar[Caller | None] = ContextVar("caller", default=None)


def caller_of(scope: Scope) -> Caller:
    """The caller that the gate noted."""
    caller: Caller = scope["state"]["caller"]
    return caller
