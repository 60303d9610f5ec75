"""Answers are read as what they should be; anything else is an error that shows it."""

import httpx
import pytest

from openset.errors import AnswerError, ProblemError
from openset.reading import is_ready, read
from openset.results import ModelId

URL = httpx.Request("GET", "http://a.test/models")


def answer(status, **content):
    return httpx.Response(status, request=URL, **content)


def test_answer_is_read_as_its_model():
    assert read(answer(200, json={"name": "a", "family": "b", "version": "1"}), ModelId).name == "a"


def test_answer_of_something_else_is_shown():
    with pytest.raises(AnswerError, match=r"name: Field required.*hello"):
        read(answer(200, json={"hello": 1}), ModelId)
    with pytest.raises(ProblemError, match="404"):
        read(answer(404, text="no"), ModelId)


def test_server_is_ready_not_yet_or_no_server():
    assert is_ready(answer(200))
    assert not is_ready(answer(503))
    with pytest.raises(ProblemError):
        is_ready(answer(404))
