"""Multipart forms: the parts that were sent, or a refusal."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import InvalidRequest, MalformedBody
from server.routes.form import parse_form

NAMES = st.text(st.characters(codec="utf-8", exclude_characters='"\\\r\n\0', exclude_categories=["Cc"]), max_size=20)
CONTENTS = st.binary(max_size=200).filter(lambda content: b"--b" not in content)


def written(parts):
    body = b""
    for name, content, is_file in parts:
        extra = b'; filename="x"' if is_file else b""
        body += b'--b\r\nContent-Disposition: form-data; name="' + name.encode() + b'"' + extra + b"\r\n\r\n"
        body += content + b"\r\n"
    return body + b"--b--\r\n"


def parsed(body, max_parts=50):
    return parse_form(body, {b"boundary": b"b"}, charset="utf-8", max_parts=max_parts)


@given(st.lists(st.tuples(NAMES, CONTENTS, st.booleans()), min_size=1, max_size=6))
def test_parts_are_those_that_were_sent(parts):
    read = parsed(written(parts))
    assert [(part.name, bytes(part.content), part.is_file) for part in read] == parts


@pytest.mark.parametrize("block", [1, 5, 64])
def test_parts_are_the_same_in_blocks_of_any_size(block, monkeypatch):
    monkeypatch.setattr("server.routes.form._BLOCK", block)
    parts = [("image", b"\r\n--\r\n--a\r\n" * 9, True), ("labels", "b\u00e4r".encode(), False), ("x", b"", False)]
    assert [(part.name, bytes(part.content), part.is_file) for part in parsed(written(parts))] == parts


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(body):
    for content in (body, b"--b\r\n" + body, written([("image", b"x", True)])[:-8] + body):
        with contextlib.suppress(MalformedBody, InvalidRequest):
            parsed(content)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        (b"", "closing boundary"),
        (written([("a", b"x", False)])[:-6], "closing boundary"),
        (b"--b\r\nA: b\r\n\r\nx\r\n--b--\r\n", "Content-Disposition"),
        (b"--b\r\n" + b"a: b\r\n" * 1000, "cannot be read"),
        (b"--b\r\na: " + b"b" * 100_000, "cannot be read"),
        (b"nonsense", "cannot be read"),
    ],
)
def test_malformed_form_is_refused_by_its_fault(body, fault):
    with pytest.raises(MalformedBody, match=fault):
        parsed(body)


def test_parts_are_counted_as_they_come():
    assert len(parsed(written([("a", b"", False)] * 50))) == 50
    with pytest.raises(InvalidRequest, match="more than 50 parts"):
        parsed(written([("a", b"", False)] * 51))
