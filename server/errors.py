"""What can go wrong with a request, and the one place that turns each fault into an answer (RFC 9457).

    Fault
    ├── RequestFault            the client can mend it
    │   ├── MalformedRequest    400  not HTTP
    │   ├── MalformedBody       400  not JSON, not multipart
    │   ├── Unauthorized        401  no API key, or a wrong one
    │   ├── Forbidden           403  the API key may not do this
    │   ├── UnknownModel        404
    │   ├── NotAcceptable       406
    │   ├── BodyTimeout         408
    │   ├── ChangeInProgress    409  bundles are changed one at a time
    │   ├── BundleNameTaken     409
    │   ├── BodyTooLarge        413
    │   ├── ImageTooLarge       413  too many pixels
    │   ├── UnsupportedBody     415
    │   ├── UnsupportedImage    415  not a picture format we read
    │   ├── BrokenImage         422  truncated, damaged, animated
    │   ├── InvalidRequest      422  fields that do not fit, listed
    │   ├── BundleRefused       422  a bundle that fails its checks, or does not fit in memory
    │   ├── UrlRefused          422  not https, not public, or URLs are off
    │   ├── UnsuitableModel     422  cannot do this task, or the name is ambiguous
    │   ├── UrlFailed           424  the URL's server gave no image
    │   └── ClientGone          499  nobody reads this answer; it is counted
    ├── Overload                try again after `retry_after` seconds
    │   ├── QueueFull           429
    │   ├── TooManyRequests     429
    │   └── MemoryExhausted     503  no room to run even one image
    └── ServiceFault
        ├── InferenceFailed     500
        ├── NotReady            503
        ├── WorkerStopped       503
        └── DeadlinePassed      504  not done within the time its client gave it

`PromptError` and `PromptTooLong` come from the contract and answer 422. `BundleError` stops the start instead, and is
told as BundleRefused later.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from server.contract.text import PromptError, PromptTooLong, shown

PROBLEM = "application/problem+json"
TYPE_PREFIX = "urn:openset:problem:"
# Below it, errors are also in the form of the Open Inference Protocol.
OPEN_INFERENCE = "/v2"


class Fault(Exception):
    """A request that gets no result; the message is the answer's `detail`."""


class RequestFault(Fault):
    """The client can mend it."""


class MalformedRequest(RequestFault):
    """What came over the connection is no HTTP request."""


class MalformedBody(RequestFault):
    """The body is not what its content type says."""


class Unauthorized(RequestFault):
    """There is no API key, or (`wrong`) it is none of ours."""

    def __init__(self, message: str, *, wrong: bool) -> None:
        super().__init__(message)
        self.challenge = 'Bearer realm="openset"' + (', error="invalid_token"' if wrong else "")


class Forbidden(RequestFault):
    """The API key may not do this."""


class UnknownModel(RequestFault):
    """No bundle of this name is loaded."""


class NotAcceptable(RequestFault):
    """None of the media types in `Accept` can be made."""


class BodyTimeout(RequestFault):
    """The body did not arrive in time."""


class ChangeInProgress(RequestFault):
    """Another bundle is being added, replaced or removed."""


class BundleNameTaken(RequestFault):
    """A bundle of this name is being served."""


class BundleRefused(RequestFault):
    """A bundle that cannot be served; what was served before still is."""


class BodyTooLarge(RequestFault):
    """The body has more bytes than allowed."""


class ImageTooLarge(RequestFault):
    """An image has more pixels than allowed."""


class UnsupportedBody(RequestFault):
    """The body's content type is not one we read."""


class UnsupportedImage(RequestFault):
    """Bytes that are no picture in a format we read."""


class BrokenImage(RequestFault):
    """A picture that cannot be decoded, or not as one still picture."""


@dataclass(frozen=True)
class FieldFault:
    """One field of a request and what is wrong with it."""

    field: str
    reason: str


class InvalidRequest(RequestFault):
    """Fields that do not fit; `faults` lists them."""

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.reason}" for fault in faults))
        self.faults = tuple(faults)


class UrlRefused(RequestFault):
    """A URL that is not fetched: not https, not at a public address, or none is."""


class UrlFailed(RequestFault):
    """The server of a URL gave no image."""


class UnsuitableModel(RequestFault):
    """A model that cannot do what is asked, or a name that fits several."""


class ClientGone(RequestFault):
    """The client closed the connection."""


class Overload(Fault):
    """More work than allowed is waiting."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Overload):
    """The model's queue has no place for these images."""


class TooManyRequests(Overload):
    """Too many requests are in progress."""


class MemoryExhausted(Overload):
    """The buffers for running one image are all in use."""


class ServiceFault(Fault):
    """The server's own fault."""


class InferenceFailed(ServiceFault):
    """The model run raised an error, or gave numbers that are not finite."""


class NotReady(ServiceFault):
    """Bundles are being loaded, or the server is stopping."""


class WorkerStopped(ServiceFault):
    """The thread that runs this model has died."""


class DeadlinePassed(ServiceFault):
    """The time that the client gave its request is over."""


@dataclass(frozen=True)
class Kind:
    """A kind of problem: HTTP status, the stable end of its `type`, its title."""

    status: int
    slug: str
    title: str


KINDS: dict[type[Exception], Kind] = {
    MalformedRequest: Kind(400, "malformed-request", "This is no HTTP request"),
    MalformedBody: Kind(400, "malformed-body", "The body cannot be read"),
    Unauthorized: Kind(401, "unauthorized", "An API key is needed"),
    Forbidden: Kind(403, "forbidden", "The API key may not do this"),
    UnknownModel: Kind(404, "unknown-model", "No such model"),
    NotAcceptable: Kind(406, "not-acceptable", "No acceptable media type"),
    BodyTimeout: Kind(408, "body-timeout", "The body did not arrive in time"),
    ChangeInProgress: Kind(409, "change-in-progress", "Bundles are being changed"),
    BundleNameTaken: Kind(409, "bundle-name-taken", "A bundle of this name is served"),
    BodyTooLarge: Kind(413, "body-too-large", "The body is too large"),
    ImageTooLarge: Kind(413, "image-too-large", "An image is too large"),
    UnsupportedBody: Kind(415, "unsupported-body", "Unsupported content type"),
    UnsupportedImage: Kind(415, "unsupported-image", "Not a picture that can be read"),
    BrokenImage: Kind(422, "broken-image", "An image cannot be decoded"),
    InvalidRequest: Kind(422, "invalid-request", "The request does not fit the schema"),
    BundleRefused: Kind(422, "bundle-refused", "The bundle cannot be served"),
    UrlRefused: Kind(422, "url-refused", "An image's URL is not fetched"),
    UnsuitableModel: Kind(422, "unsuitable-model", "The model cannot do this"),
    PromptError: Kind(422, "unusable-prompt", "The prompt cannot be used"),
    PromptTooLong: Kind(422, "prompt-too-long", "The prompt is too long for the model"),
    UrlFailed: Kind(424, "url-failed", "An image's URL gives no image"),
    QueueFull: Kind(429, "queue-full", "The queue is full"),
    TooManyRequests: Kind(429, "too-many-requests", "Too many requests in progress"),
    ClientGone: Kind(499, "client-gone", "The client closed the connection"),
    MemoryExhausted: Kind(503, "memory-exhausted", "Memory is short"),
    InferenceFailed: Kind(500, "inference-failed", "The model run failed"),
    NotReady: Kind(503, "not-ready", "The server is not ready"),
    WorkerStopped: Kind(503, "worker-stopped", "The model's worker has stopped"),
    DeadlinePassed: Kind(504, "deadline-passed", "The request's deadline has passed"),
}
# For what the framework refuses with a bare phrase.
_HTTP_DETAILS = {
    404: "there is nothing at this address; GET /docs shows what there is",
    405: "this address does not take this method; the Allow header names those it takes",
}
# Beyond it a request is nonsense, and listing its faults would take gigabytes.
_MAX_FAULTS = 1000
_UNFORESEEN = Kind(500, "internal-error", "Internal error")


def kind_of(error: Exception) -> Kind:
    """The kind of problem `error` is; by its own class, else its nearest base in the table."""
    if isinstance(error, HTTPException):
        # The phrases change with the Python version, the types must not.
        slug = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, f"http-{error.status_code}")
        return Kind(error.status_code, slug, HTTPStatus(error.status_code).phrase)
    return next((KINDS[base] for base in type(error).__mro__ if base in KINDS), _UNFORESEEN)


def problem(error: Exception) -> dict[str, Any]:
    """The problem document of `error`; an unforeseen one keeps its message to the log."""
    kind = kind_of(error)
    if isinstance(error, HTTPException):
        detail = _HTTP_DETAILS.get(error.status_code, str(error.detail))
    else:
        detail = str(error) if kind is not _UNFORESEEN else "The server met an unforeseen error; its log has the cause."
    document: dict[str, Any] = {
        "type": TYPE_PREFIX + kind.slug,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
    }
    if isinstance(error, InvalidRequest):
        document["errors"] = [{"field": fault.field, "reason": fault.reason} for fault in error.faults]
    return document


def problem_response(error: Exception, *, request_id: str = "", path: str = "") -> JSONResponse:
    """`error` as an `application/problem+json` response; below /v2 with the member that its protocol wants."""
    headers: Mapping[str, str] = (error.headers or {}) if isinstance(error, HTTPException) else {}
    if isinstance(error, Overload):
        headers = {"Retry-After": str(error.retry_after)}
    if isinstance(error, Unauthorized):
        headers = {"WWW-Authenticate": error.challenge}
    document = problem(error) | ({"request_id": request_id} if request_id else {})
    if path.startswith(OPEN_INFERENCE):
        document["error"] = document["detail"]
    return JSONResponse(document, document["status"], headers=dict(headers), media_type=PROBLEM)


def invalid_request(error: ValidationError) -> RequestFault:
    """What a schema's refusal answers: field and reason, never the value, which may be a whole image."""
    if error.error_count() > _MAX_FAULTS:
        return InvalidRequest([FieldFault("body", f"{error.error_count()} fields and items do not fit")])
    faults = error.errors(include_input=False, include_url=False)
    if faults[0]["type"] == "json_invalid":
        return MalformedBody(f"the body is not JSON: {faults[0]['msg'].removeprefix('Invalid JSON: ')}")
    return InvalidRequest([FieldFault(_place(fault["loc"]), _reason(fault)) for fault in faults[:20]])


def _place(location: Sequence[int | str]) -> str:
    # An unknown field's name is the client's own text, so it is cut.
    return (
        ".".join(
            part if isinstance(part, str) and len(part) <= 60 else shown(str(part)).strip("'") for part in location
        )
        or "body"
    )


def _reason(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "there is no such field"
    if fault["type"] == "too_long":
        return f"these are far too many: at most {fault['ctx']['max_length']} are read"
    return str(fault["msg"]).removeprefix("Value error, ")
