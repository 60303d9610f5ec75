"""JSON within bounds: the same values as another parser reads, or a refusal before objects are made."""

import base64
import contextlib
import json
import random
import tracemalloc

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from server.errors import InvalidRequest, MalformedBody
from server.json_text import LONG_BYTES, PLACEHOLDER_CHARS, LongString, decode_base64, read_json
from server.requests import DetectRequest

MIB = 2**20
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
IMAGE = random.Random(0).randbytes(LONG_BYTES)


def long(text):
    return LongString(memoryview(text))


def is_base64(text):
    try:
        decode_base64(text)
    except ValueError:
        return False
    return True


@given(JSON, st.sampled_from([None, 1]), st.booleans(), st.booleans())
def test_what_is_not_long_stays_as_it_was(value, indent, ascii_only, marked):
    written = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(errors="surrogatepass")
    read = read_json(b"\xef\xbb\xbf" * marked + written, max_values=200)
    assert (read.text, read.strings) == (written, {})


@given(st.binary(max_size=300))
@example(b'"\\')
@example(b'"' + b'\\"' * 50)
def test_any_bytes_are_read_or_refused(body):
    with contextlib.suppress(InvalidRequest, MalformedBody):
        assert read_json(body, max_values=50).text in (body, body.removeprefix(b"\xef\xbb\xbf"))


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"[]," * (10 * MIB) + b"[]]",
        b"[" * (32 * MIB),
        b'{"a":0,' + b'"a":0,' * (5 * MIB) + b'"a":0}',
        b"[" + b"1," * (16 * MIB) + b"1]",
        b"[" + b'"",' * (10 * MIB) + b'""]',
        b'{"a": ' + b"1" * (32 * MIB) + b"}",
        b'["' + b'\\"' * (16 * MIB) + b'"]',
        b'["' + b"\\" * (32 * MIB),
        b'"a" ' * (8 * MIB),
    ],
    ids=["empty lists", "depth", "one key", "numbers", "strings", "a digit", "quotes", "backslashes", "no commas"],
)
def test_body_of_32_mib_is_refused_before_objects_are_made(body):
    tracemalloc.start()
    with pytest.raises((InvalidRequest, MalformedBody)):
        read_json(body, max_values=2532)
    assert tracemalloc.get_traced_memory()[1] < 2 * len(body)
    tracemalloc.stop()


def written_by_php(text):
    return json.dumps(text).replace("/", "\\/")


def written_by_dotnet(text):
    return json.dumps(text).replace("+", "\\u002B")


@pytest.mark.parametrize("write", [json.dumps, written_by_php, written_by_dotnet])
@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.encodebytes])
def test_long_image_is_decoded_however_its_json_was_written(write, prefix, encode):
    text = prefix + encode(IMAGE).decode()
    body = f'{{"labels": ["dog"], "images": [{write(text)}, {write(text)}]}}'.encode()
    assert read_json(body, max_values=100).parse(DetectRequest).images == (IMAGE, IMAGE)
    assert len(read_json(body, max_values=100).text) < 2 * PLACEHOLDER_CHARS + 100


@given(st.binary(max_size=60), st.data())
def test_base64_is_decoded_or_refused_as_by_the_standard_library(content, data):
    text = bytearray(base64.b64encode(content))
    for _ in range(data.draw(st.integers(0, 2))):
        text.insert(data.draw(st.integers(0, len(text))), data.draw(st.sampled_from(b" \n=A-_%")))
    try:
        expected = base64.b64decode(bytes(text).translate(None, b" \n"), validate=True)
    except ValueError:
        expected = None
    assert is_base64(text.decode()) == (expected is not None)
    if expected is not None:
        assert decode_base64(text.decode()) == expected


@pytest.mark.parametrize("block", [1, 4, 7, 10])
def test_base64_is_the_same_in_blocks_of_any_size(block, monkeypatch):
    monkeypatch.setattr("server.json_text._BLOCK", block)
    text = base64.encodebytes(IMAGE[:100])
    assert decode_base64(text.decode()) == IMAGE[:100]
    if block > 6:
        assert decode_base64(long(json.dumps(text.decode()).encode()[1:-1])) == IMAGE[:100]
    assert not any(is_base64(wrong) for wrong in ("QQ==QQ==", "QQ==QUJD", "Q", "QUJD\u00e9"))


@pytest.mark.parametrize("text", [b"QUJD\nQUJD", b"QUJD\\", b"QUJD\\x", b'QUJD\\"', b"\\u00e9"])
def test_long_string_with_what_json_or_base64_does_not_have_is_refused(text):
    assert not is_base64(long(text))


def test_long_string_fits_no_field_but_an_image():
    words = "a" * (LONG_BYTES + 1)
    for field in ("prompt", "labels", "model", "box_format", "image_url", "box_threshold", words):
        value = [words] if field == "labels" else words
        body = json.dumps({"image": "QUJD", "prompt": "a"} | {field: value}).encode()
        with pytest.raises(ValidationError) as refusal:
            read_json(body, max_values=100).parse(DetectRequest)
        assert refusal.value.errors()[0]["loc"][0] == (field if field != words else refusal.value.errors()[0]["loc"][0])


def test_no_text_of_a_request_may_be_as_long_as_a_placeholder():
    longest = max(
        bounds["maxLength"]
        for field in DetectRequest.model_json_schema()["properties"].values()
        for bounds in [field, field.get("items", {}), *field.get("anyOf", [])]
        if "maxLength" in bounds
    )
    assert 10_000 <= longest < PLACEHOLDER_CHARS


class Anything(BaseModel):
    """A model with a text of any length."""

    text: str


def test_placeholders_cannot_be_guessed():
    body = json.dumps({"text": "a" * (LONG_BYTES + 1)}).encode()
    assert read_json(body, max_values=9).parse(Anything) != read_json(body, max_values=9).parse(Anything)
