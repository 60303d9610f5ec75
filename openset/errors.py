"""Errors of a call.

ClientError
├── ImageError            an image that cannot be sent; also a ValueError
├── ConnectionFailed      no answer came: refused, dropped or too late
├── AnswerError           an answer that is not the server's
└── ProblemError          the server, or a proxy before it, refused
    └── UrlsUnsupported   the server does not fetch the URL of an image
"""

import html
import re
from http import HTTPStatus
from typing import Any

import httpx
from pydantic import BaseModel, ValidationError

from openset.results import FieldProblem

# Words for a 407, which only a proxy answers.
PROXY_LOGIN = (
    "the proxy that the environment names asks for a login: write its address as http://USER:PASSWORD@HOST:PORT"
)
_MAX_EXCERPT = 300
_IMAGE_NAME = re.compile(r"^(the image|image \d+ of \d+)")
_MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)


class Problem(BaseModel):
    """Problem document of a refusal (RFC 9457); `type` is a stable name, about:blank where the answer had none."""

    type: str
    title: str
    status: int
    detail: str
    errors: list[FieldProblem] | None = None
    request_id: str | None = None
    index: int | None = None


class ClientError(Exception):
    """A call that has no result."""


class ImageError(ClientError, ValueError):
    """An image that cannot be sent; nothing was."""


class ConnectionFailed(ClientError):
    """No answer came; the cause is httpx's error."""


class AnswerError(ClientError):
    """A success whose body is not what the server answers."""


class ProblemError(ClientError):
    """A refusal, with the members of its problem document; `errors` are the fields that do not fit.

    Where it is about one image, `index` is its place among those given, `image` its path or URL.
    """

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem
        self.status, self.type = problem.status, problem.type
        self.title, self.detail = problem.title, problem.detail
        self.errors = tuple(problem.errors or ())
        self.index, self.image = problem.index, ""

    def concern(self, index: int, image: str) -> None:
        """Note the image that it is about: its place among those given, and its path or URL, if it has one."""
        self.index, self.image = index, image
        self.detail = named(self.detail, image)

    def __str__(self) -> str:
        return f"{self.status} {self.title}" + (f": {self.detail}" if self.detail else "")


class UrlsUnsupported(ProblemError):
    """The server does not know the field `image_urls`, fetches no images, or not this one: pass the image's bytes."""


def named(detail: str, image: str) -> str:
    """Detail of a problem with the image's own name in place of its number in one request."""
    return _IMAGE_NAME.sub(lambda _: image, detail) if image else detail


def no_answer(error: httpx.RequestError, attempts: int, through: str = "") -> ConnectionFailed:
    """Error for a request that httpx could not get answered; `through` are words about the proxy that it took."""
    times = f" after {attempts} attempts" if attempts > 1 else ""
    return ConnectionFailed(f"{error.request.url} gave no answer{through}{times}: {str(error) or type(error).__name__}")


def problem_error(response: httpx.Response) -> ProblemError:
    """Error for an answer that is no success, from the server or from a proxy before it."""
    problem = _problem(response)
    unknown = {fault.field for fault in problem.errors or () if fault.reason == "there is no such field"}
    if "image_urls" in unknown:
        detail = "this server takes no URLs of images: download the image and pass its bytes"
        return UrlsUnsupported(problem.model_copy(update={"detail": detail}))
    return (UrlsUnsupported if problem.type.endswith(":url-refused") else ProblemError)(problem)


def excerpt(response: httpx.Response) -> str:
    """Beginning of the readable text of an answer, without markup."""
    text = html.unescape(_MARKUP.sub(" ", response.text[: 100 * _MAX_EXCERPT]))
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= _MAX_EXCERPT else text[:_MAX_EXCERPT] + "…"


def _problem(response: httpx.Response) -> Problem:
    """Read a problem document; members that it leaves out, as RFC 9457 allows, follow from the status."""
    members: dict[str, Any] = {"type": "about:blank", "title": _phrase(response), "detail": ""}
    status = {"status": response.status_code}
    try:
        return Problem.model_validate(members | response.json() | status)
    except (ValueError, TypeError, RecursionError, ValidationError):
        detail = excerpt(response)
        if response.status_code == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
            detail = PROXY_LOGIN
        if response.has_redirect_location:
            detail = f"it points to {response.headers['location']}, and redirects are not followed: use that address"
        return Problem.model_validate(members | status | {"detail": detail})


def _phrase(response: httpx.Response) -> str:
    try:
        return HTTPStatus(response.status_code).phrase
    except ValueError:
        return response.reason_phrase or "Unknown status"
