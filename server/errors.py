"""Errors of requests, and their problem documents (RFC 9457).

    Fault
    ├── RequestFault            the client can correct it
    │   ├── MalformedRequest    400  not HTTP
    │   ├── MalformedBody       400  not JSON, not multipart
    │   ├── Unauthorized        401  no API key, or a wrong one
    │   ├── Forbidden           403  the API key may not do this
    │   ├── UnknownModel        404
    │   ├── UnknownJob          404  never submitted here, cancelled, expired, or before a restart
    │   ├── NotAcceptable       406
    │   ├── BodyTimeout         408
    │   ├── ChangeInProgress    409  bundles are changed one at a time
    │   ├── BundleNameTaken     409  a bundle of this name is being served
    │   ├── JobUnfinished       409  its answer is not there yet
    │   ├── ModelChanged        409  a job's model was replaced while it ran
    │   ├── BodyTooLarge        413
    │   ├── ImageTooLarge       413  too many pixels
    │   ├── UnsupportedBody     415
    │   ├── UnsupportedImage    415  not a picture format we read
    │   ├── BrokenImage         422  truncated, damaged, animated
    │   ├── InvalidRequest      422  wrong fields, listed
    │   ├── BundleRefused       422  a bundle that fails its checks, or does not fit in memory
    │   ├── UrlRefused          422  not https, not public, or URLs are off
    │   ├── UnsuitableModel     422  cannot do this task, or the name is ambiguous
    │   ├── UrlFailed           424  the URL's server gave no image
    │   └── ClientGone          499  nobody reads this response; it is counted
    ├── Overload                try again after `retry_after` seconds
    │   ├── QueueFull           429
    │   ├── TooManyRequests     429
    │   ├── TooManyJobs         429
    │   └── MemoryExhausted     503  no room to run even one image
    └── ServiceFault
        ├── InferenceFailed     500
        ├── NotReady            503
        ├── WorkerStopped       503
        └── DeadlinePassed      504  the client's own time limit

`PromptError` and `PromptTooLong` come from the contract and give 422. `BundleError` stops the server's start; later it
is answered as BundleRefused.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from server.contract.field_names import no_such_field
from server.contract.text import PromptError, PromptTooLong, shown

PROBLEM = "application/problem+json"
TYPE_PREFIX = "urn:openset:problem:"
# Bundles load in seconds, and a server that stops is soon replaced by another.
RETRY_SOON_S = 5
# Problems below this path also have the member `error` of the Open Inference Protocol.
OPEN_INFERENCE = "/v2"


class Fault(Exception):
    """A request that gets no result; the message is the problem's `detail`, `headers` go with it."""

    headers: Mapping[str, str] | None = None
    image_index: int | None = None  # of the image that it is about, from 0


class RequestFault(Fault):
    """A fault that the client can correct."""


class MalformedRequest(RequestFault):
    """The connection carries something else than an HTTP/1.1 request."""


class MalformedBody(RequestFault):
    """The body cannot be parsed as its content type."""


class Unauthorized(RequestFault):
    """The API key is missing, or (`wrong`) unknown."""

    def __init__(self, message: str, *, wrong: bool) -> None:
        super().__init__(message)
        self.headers = {"WWW-Authenticate": 'Bearer realm="openset"' + (', error="invalid_token"' if wrong else "")}


class Forbidden(RequestFault):
    """The API key may not do this."""


class UnknownModel(RequestFault):
    """No bundle of this name is loaded."""


class UnknownJob(RequestFault):
    """No job of this id is held, or it is another client's."""


class JobUnfinished(RequestFault):
    """A job that has no answer yet."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": "1"}


class ModelChanged(RequestFault):
    """A job whose model was replaced before all its images were done."""


class NotAcceptable(RequestFault):
    """None of the media types in `Accept` is available."""


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
    """The body has an unsupported content type."""


class UnsupportedImage(RequestFault):
    """The bytes are not an image in a supported format."""


class BrokenImage(RequestFault):
    """An image that cannot be decoded, or is animated."""


@dataclass(frozen=True)
class FieldFault:
    """A field of a request and the reason why it is refused."""

    field: str
    reason: str


class InvalidRequest(RequestFault):
    """Wrong fields; `faults` lists them."""

    def __init__(self, faults: Sequence[FieldFault]) -> None:
        super().__init__("; ".join(f"{fault.field}: {fault.reason}" for fault in faults))
        self.faults = tuple(faults)


class UrlRefused(RequestFault):
    """A URL that is not downloaded: not https, not at a public address, or URLs are off."""


class UrlFailed(RequestFault):
    """The server of a URL returned no image."""


class UnsuitableModel(RequestFault):
    """A model that does not support the task, or a name that matches several."""


class ClientGone(RequestFault):
    """The client closed the connection."""


class Overload(Fault):
    """A limit on work in progress is reached; `retry_after` in seconds."""

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.headers = {"Retry-After": str(retry_after)}


class QueueFull(Overload):
    """The model's queue has no room for these images."""


class TooManyRequests(Overload):
    """Too many requests are in progress."""


class TooManyJobs(Overload):
    """As many jobs are held as may be."""


class MemoryExhausted(Overload):
    """The buffers for running one image are all in use."""


class ServiceFault(Fault):
    """A fault of the server."""


class InferenceFailed(ServiceFault):
    """The model run raised an error, or returned numbers that are not finite."""


class NotReady(ServiceFault):
    """Bundles are being loaded, or the server is stopping; `retry_after` in seconds where trying again may help."""

    def __init__(self, message: str, *, retry_after: int | None = RETRY_SOON_S) -> None:
        super().__init__(message)
        self.headers = None if retry_after is None else {"Retry-After": str(retry_after)}


class WorkerStopped(ServiceFault):
    """The thread that runs this model has died, or hangs."""


class DeadlinePassed(ServiceFault):
    """The time limit that the client set for its request has passed."""


# Faults of one image, which its neighbours may be spared.
IMAGE_FAULTS = (BrokenImage, ImageTooLarge, UnsupportedImage, UrlRefused, UrlFailed, InferenceFailed)


@dataclass(frozen=True)
class Kind:
    """A kind of problem: HTTP status, the stable last part of its `type`, title."""

    status: int
    slug: str
    title: str


KINDS: dict[type[Exception], Kind] = {
    MalformedRequest: Kind(400, "malformed-request", "This is no HTTP request"),
    MalformedBody: Kind(400, "malformed-body", "The body cannot be read"),
    Unauthorized: Kind(401, "unauthorized", "An API key is needed"),
    Forbidden: Kind(403, "forbidden", "The API key may not do this"),
    UnknownModel: Kind(404, "unknown-model", "No such model"),
    UnknownJob: Kind(404, "unknown-job", "No such job"),
    NotAcceptable: Kind(406, "not-acceptable", "No acceptable media type"),
    BodyTimeout: Kind(408, "body-timeout", "The body did not arrive in time"),
    ChangeInProgress: Kind(409, "change-in-progress", "Bundles are being changed"),
    BundleNameTaken: Kind(409, "bundle-name-taken", "A bundle of this name is served"),
    JobUnfinished: Kind(409, "job-unfinished", "The job has not ended"),
    ModelChanged: Kind(409, "model-changed", "The job's model was replaced"),
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
    TooManyJobs: Kind(429, "too-many-jobs", "Too many jobs are held"),
    ClientGone: Kind(499, "client-gone", "The client closed the connection"),
    MemoryExhausted: Kind(503, "memory-exhausted", "Memory is short"),
    InferenceFailed: Kind(500, "inference-failed", "The model run failed"),
    NotReady: Kind(503, "not-ready", "The server is not ready"),
    WorkerStopped: Kind(503, "worker-stopped", "The model's worker has stopped"),
    DeadlinePassed: Kind(504, "deadline-passed", "The request's deadline has passed"),
}
# For refusals of the framework, which have only a status phrase.
_HTTP_DETAILS = {
    404: "there is no such endpoint; GET /docs lists the endpoints",
    405: "this endpoint does not support this method; the Allow header lists those it does",
}
_NO_EXTENSIONS = (
    "; below /v2 these are health, metadata and infer, without Triton's config, statistics, repository, shared memory,"
    " trace and logging"
)
# Listing more would take gigabytes.
_MAX_FAULTS = 1000
_UNEXPECTED = Kind(500, "internal-error", "Internal error")


def kind_of(error: Exception) -> Kind:
    """The kind of `error`: of its own class, else of its nearest base class in the table."""
    if isinstance(error, HTTPException):
        # Phrases change with the Python version, types must not.
        slug = {404: "not-found", 405: "method-not-allowed"}.get(error.status_code, f"http-{error.status_code}")
        return Kind(error.status_code, slug, HTTPStatus(error.status_code).phrase)
    return next((KINDS[base] for base in type(error).__mro__ if base in KINDS), _UNEXPECTED)


def problem(error: Exception) -> dict[str, Any]:
    """The problem document of `error`; the message of an unexpected one goes to the log alone."""
    kind = kind_of(error)
    if isinstance(error, HTTPException):
        detail = _HTTP_DETAILS.get(error.status_code, str(error.detail))
    else:
        detail = str(error) if kind is not _UNEXPECTED else "An unexpected error; the server's log has the cause."
    document: dict[str, Any] = {
        "type": TYPE_PREFIX + kind.slug,
        "title": kind.title,
        "status": kind.status,
        "detail": detail,
    }
    if isinstance(error, Fault) and error.image_index is not None:
        document["index"] = error.image_index
    if isinstance(error, InvalidRequest):
        document["errors"] = [{"field": fault.field, "reason": fault.reason} for fault in error.faults]
    return document


def problem_response(error: Exception, *, request_id: str = "", path: str = "") -> JSONResponse:
    """`error` as an `application/problem+json` response; below /v2 also in the protocol's own form."""
    headers = error.headers if isinstance(error, Fault | HTTPException) else None
    document = problem(error) | ({"request_id": request_id} if request_id else {})
    if path.startswith(OPEN_INFERENCE):
        if document["status"] == HTTPStatus.NOT_FOUND and isinstance(error, HTTPException):
            document["detail"] += _NO_EXTENSIONS
        document["error"] = document["detail"]
    return JSONResponse(document, document["status"], headers=dict(headers or {}), media_type=PROBLEM)


def invalid_request(error: ValidationError, *, fields: Collection[str] = ()) -> RequestFault:
    """A schema's validation error as a fault: field and reason, never the value, which may be a whole image.

    `fields` are those that the request may have.
    """
    if error.error_count() > _MAX_FAULTS:
        return InvalidRequest([FieldFault("body", f"{error.error_count()} fields and items are wrong")])
    faults = error.errors(include_input=False, include_url=False)
    if faults[0]["type"] == "json_invalid":
        return MalformedBody(f"the body is not JSON: {faults[0]['msg'].removeprefix('Invalid JSON: ')}")
    return InvalidRequest([FieldFault(_location(fault["loc"]), _reason(fault, fields)) for fault in faults[:20]])


def _location(location: Sequence[int | str]) -> str:
    # The name of an unknown field is the client's own text, so it is cut.
    parts = (part if isinstance(part, str) and len(part) <= 60 else shown(str(part)).strip("'") for part in location)
    return ".".join(parts) or "body"


def _reason(fault: Any, fields: Collection[str]) -> str:
    if fault["type"] == "extra_forbidden":
        return no_such_field(str(fault["loc"][-1]), fields if len(fault["loc"]) == 1 else ())
    if fault["type"] == "too_long":
        return f"there are too many: at most {fault['ctx']['max_length']} are accepted"
    return str(fault["msg"]).removeprefix("Value error, ")
