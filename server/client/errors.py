"""Why a call has no result.

ClientError
├── ImageError            an image that cannot be sent; also a ValueError
├── ConnectionFailed      no answer came: refused, dropped or too late
├── AnswerError           an answer that is not the server's
└── ProblemError          the server, or a proxy before it, refused
    └── UrlsUnsupported   the server takes no URLs of images
"""

import html
import re
from http import HTTPStatus
from typing import Any

import httpx
from pydantic import ValidationError

from server.schemas import FieldProblem, Problem

_MAX_EXCERPT = 300
_MARKUP = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)


class ClientError(Exception):
    """A call that has no result."""


class ImageError(ClientError, ValueError):
    """An image that cannot be sent; nothing was."""


class ConnectionFailed(ClientError):
    """No answer came; the cause is httpx's error."""


class AnswerError(ClientError):
    """A success whose body is not what the server answers."""


class ProblemError(ClientError):
    """A refusal, with the fields of its problem document (RFC 9457)."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.status} {self.title}" + (f": {self.detail}" if self.detail else "")

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self.problem.status

    @property
    def type(self) -> str:
        """The stable name of the kind of problem; `about:blank` where the answer was no problem document."""
        return self.problem.type

    @property
    def title(self) -> str:
        """The kind of problem in words."""
        return self.problem.title

    @property
    def detail(self) -> str:
        """What was wrong this time."""
        return self.problem.detail

    @property
    def errors(self) -> tuple[FieldProblem, ...]:
        """The fields that do not fit, each with its reason."""
        return tuple(self.problem.errors or ())


class UrlsUnsupported(ProblemError):
    """A server that has no field for URLs of images."""


def problem_error(response: httpx.Response) -> ProblemError:
    """What an answer that is no success means, whoever gave it."""
    problem = _problem(response)
    unknown = {fault.field for fault in problem.errors or () if fault.reason == "there is no such field"}
    if "image_urls" in unknown:
        detail = "this server takes no URLs of images: download the image and pass its bytes"
        return UrlsUnsupported(problem.model_copy(update={"detail": detail}))
    return ProblemError(problem)


def excerpt(response: httpx.Response) -> str:
    """The beginning of the readable text of an answer, without markup."""
    text = html.unescape(_MARKUP.sub(" ", response.text[: 100 * _MAX_EXCERPT]))
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return text if len(text) <= _MAX_EXCERPT else text[:_MAX_EXCERPT] + "…"


def _problem(response: httpx.Response) -> Problem:
    """Its problem document; members that it leaves out, as RFC 9457 allows, follow from the status."""
    members: dict[str, Any] = {"type": "about:blank", "title": _phrase(response), "detail": ""}
    try:
        document = response.json()
        return Problem.model_validate(members | document | {"status": response.status_code})
    except (ValueError, TypeError, RecursionError, ValidationError):
        members["detail"] = _told(response)
        return Problem.model_validate(members | {"status": response.status_code})


def _phrase(response: httpx.Response) -> str:
    try:
        return HTTPStatus(response.status_code).phrase
    except ValueError:
        return response.reason_phrase or "Unknown status"


def _told(response: httpx.Response) -> str:
    if response.has_redirect_location:
        return f"it points to {response.headers['location']}, and redirects are not followed: use that address"
    return excerpt(response)
