"""JSON of clients within bounds: counted before it is parsed, and images in it never become text.

A parser holds the interpreter while it works, and makes an object of fifty bytes and more from two bytes of `[]`. So
values are counted first, string by string, which stops at the bound; and each long string is replaced by a short one
that is too long for every field but an image, whose base64 is decoded from where it lies.
"""

import binascii
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel

from server.errors import FieldFault, InvalidRequest, MalformedBody

Model = TypeVar("Model", bound=BaseModel)

# Bytes of a string from which on it may only be an image: a caption of 10,000 characters has up to twelve for each.
LONG_BYTES = 128 * 1024
# More characters than any text may have.
PLACEHOLDER_CHARS = 16_000
# Outside of strings: a number of 17 digits, a colon and a comma leave room.
_BYTES_PER_VALUE = 32
_BLOCK = 2**20
_SPACES = b" \t\r\n\v\f"
# RFC 4648: its alphabet for URLs has two other characters.
_STANDARD = bytes.maketrans(b"-_", b"+/")
_BOM = b"\xef\xbb\xbf"
_DATA_URL = re.compile(rb"data:[^,]{0,200};base64,", re.IGNORECASE)


@dataclass(frozen=True)
class LongString:
    """A string between its quotes, as it stands in the JSON."""

    content: memoryview


@dataclass(frozen=True)
class JsonText:
    """JSON whose long strings are `strings`, by the placeholders in `text`."""

    text: bytes
    strings: Mapping[str, LongString]

    def parse(self, model: type[Model]) -> Model:
        """The text as `model`, whose images find their strings; pydantic's ValidationError if it does not fit."""
        return model.model_validate_json(self.text, context=self.strings)


def read_json(body: bytes | bytearray, *, max_values: int, advice: str = "GET /models lists the limits") -> JsonText:
    """A JSON body, which may begin with a byte order mark; a RequestFault if it has more than `max_values` values."""
    return _Reader(body, max_values, advice).read()


def decode_base64(text: str | LongString) -> bytes:
    """The bytes of a base64 text or `data:` URL, with or without line breaks; ValueError if it is none."""
    content = text.content if isinstance(text, LongString) else memoryview(text.encode("ascii"))
    prefix = _DATA_URL.match(bytes(content[:300]))
    if prefix:
        content = content[prefix.end() :]
    return b"".join(_decoded_blocks(content, in_json=isinstance(text, LongString)))


class _Reader:
    """One pass over a body, a string at a time."""

    def __init__(self, body: bytes | bytearray, max_values: int, advice: str) -> None:
        self._body, self._max_values, self._advice = body, max_values, advice
        self._values, self._outside, self._quotes = 1, 0, 0
        self._key = secrets.token_hex(16)

    def read(self) -> JsonText:
        parts: list[bytes] = []
        strings: dict[str, LongString] = {}
        at = 3 if self._body.startswith(_BOM) else 0
        taken = at  # what comes before is in `parts`
        while (opening := self._body.find(b'"', at)) >= 0:
            self._count_outside(at, opening)
            closing = self._closing(opening + 1)
            if closing - opening > LONG_BYTES:
                name = f"{self._key}{len(strings):x}".ljust(PLACEHOLDER_CHARS, ".")
                strings[name] = LongString(memoryview(self._body)[opening + 1 : closing])
                parts += [bytes(memoryview(self._body)[taken : opening + 1]), name.encode()]
                taken = closing
            at = closing + 1
        self._count_outside(at, len(self._body))
        return JsonText(b"".join([*parts, bytes(memoryview(self._body)[taken:])]), strings)

    def _closing(self, start: int) -> int:
        """The place of the quote that ends the string from `start`."""
        at = start
        while (quote := self._body.find(b'"', at)) >= 0:
            self._count_quote()
            if quote == at or self._body[quote - 1] != ord("\\"):
                return quote
            before = bytes(memoryview(self._body)[at:quote])
            if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
                return quote
            at = quote + 1
        raise MalformedBody("the body is not JSON: a string does not end")

    def _count_quote(self) -> None:
        self._quotes += 1
        if self._quotes > 64 * self._max_values:
            raise InvalidRequest([FieldFault("body", "it has far more quotes than a request needs")])

    def _count_outside(self, start: int, end: int) -> None:
        """Count the values between two strings."""
        for at in range(start, end, _BLOCK // 16):
            block = bytes(memoryview(self._body)[at : min(at + _BLOCK // 16, end)])
            self._values += block.count(b",") + block.count(b"[") + block.count(b"{")
            self._outside += len(block.translate(None, _SPACES))
            if self._values > self._max_values:
                reason = f"it has more than {self._max_values} values, which no request within the limits needs"
                raise InvalidRequest([FieldFault("body", f"{reason}; {self._advice}")])
            if self._outside > _BYTES_PER_VALUE * self._max_values:
                raise InvalidRequest([FieldFault("body", "its numbers are far longer than a request needs")])


def _decoded_blocks(content: memoryview, *, in_json: bool) -> list[bytes]:
    """Decoded blocks, small enough to let other threads run in between."""
    blocks: list[bytes] = []
    rest, at = b"", 0
    while at < len(content):
        block = bytes(content[at : at + _BLOCK])
        if in_json:
            if at + len(block) < len(content) and (escape := block.rfind(b"\\", -6)) > 0:
                block = block[:escape]  # not cut in two
            at += len(block)
            block = _unescaped(block)
        else:
            at += len(block)
        rest += block.translate(_STANDARD, _SPACES)
        if blocks and len(blocks[-1]) % 3 and rest:
            raise ValueError("the text goes on behind its end")
        whole = len(rest) if at == len(content) else len(rest) // 4 * 4
        if whole:
            blocks.append(binascii.a2b_base64(rest[:whole], strict_mode=True))
            rest = rest[whole:]
    return blocks


def _unescaped(block: bytes) -> bytes:
    if any(block.find(control) >= 0 for control in (b"\n", b"\r", b"\t")):
        raise ValueError("a line break in JSON is escaped")
    return json.loads(b'"' + block + b'"').encode("ascii") if b"\\" in block else block
