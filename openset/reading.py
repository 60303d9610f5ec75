"""Reading of a server's answers."""

from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from openset.errors import AnswerError, excerpt, problem_error

Answer = TypeVar("Answer", bound=BaseModel)


def read(response: httpx.Response, kind: type[Answer]) -> Answer:
    """Read an answer; ProblemError for a refusal, AnswerError for what no Openset server answers."""
    if not response.is_success:
        raise problem_error(response)
    try:
        return kind.model_validate_json(response.content)
    except ValidationError as error:
        fault = error.errors(include_input=False)[0]
        place = ".".join(map(str, fault["loc"]))
        raise AnswerError(
            f"{response.url} answered {response.status_code}, but not as an Openset server does"
            f" ({place + ': ' if place else ''}{fault['msg']}): {excerpt(response)}"
        ) from None


def is_ready(response: httpx.Response) -> bool:
    """Read the answer of /readyz, where 503 means: not yet."""
    if not response.is_success and response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        raise problem_error(response)
    return response.is_success
