"""Multipart forms, parsed from a whole body in memory: uploads never touch a disk."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.contract.text import shown
from server.errors import FieldFault, InvalidRequest, MalformedBody

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# Limit of a text field; a caption may have 10,000 characters of up to 4 bytes.
MAX_TEXT_BYTES = 64 * 1024
_BLOCK = 2**20


@dataclass
class Part:
    """A field of a form: a file where it has a file name."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    name: str = ""
    is_file: bool = False
    content: bytearray = field(default_factory=bytearray)

    def text(self, charset: str) -> str:
        """The content as text; what is not in `charset` is taken for Latin-1."""
        return _decoded(bytes(self.content), charset)


def parse_form(body: bytes | bytearray, options: Mapping[bytes, bytes], *, charset: str, max_parts: int) -> list[Part]:
    """The parts of a form whose content type has `options`; a RequestFault if it cannot be read."""
    boundary = options.get(b"boundary")
    if not boundary:
        raise MalformedBody("the form cannot be read: its Content-Type names no boundary")
    reader = _Reader(charset, max_parts)
    try:
        parser = MultipartParser(boundary, reader.callbacks())
        for at in range(0, len(body), _BLOCK):
            parser.write(bytes(body[at : at + _BLOCK]))
        parser.finalize()
    except FormParserError as error:
        raise MalformedBody(f"the form cannot be read: {error}") from None
    if not reader.ended:
        raise MalformedBody("the form ends before its closing boundary: is the body complete?")
    return reader.parts


class _Reader:
    """Collects the parts that the parser finds."""

    def __init__(self, charset: str, max_parts: int) -> None:
        self.parts: list[Part] = []
        self.ended = False  # without the closing boundary the last part would be dropped silently
        self._charset, self._max_parts = charset, max_parts
        self._part, self._header, self._value = Part(), bytearray(), bytearray()

    def callbacks(self) -> "MultipartCallbacks":
        """The parser's callbacks."""
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._add,
            "on_part_end": lambda: self.parts.append(self._part),
            "on_end": self._end,
        }

    def _begin(self) -> None:
        if len(self.parts) >= self._max_parts:
            raise InvalidRequest([FieldFault("body", f"the form has more than {self._max_parts} parts")])
        self._part = Part()

    def _end_header(self) -> None:
        self._part.headers[bytes(self._header).lower()] = bytes(self._value)
        self._header, self._value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._part.headers.get(b"content-disposition"))
        if b"name" not in options:
            raise MalformedBody("the form cannot be read: a part has no Content-Disposition with a name")
        self._part.name = _decoded(options[b"name"], self._charset)
        self._part.is_file = b"filename" in options

    def _add(self, data: bytes, start: int, end: int) -> None:
        self._part.content += data[start:end]
        if not self._part.is_file and len(self._part.content) > MAX_TEXT_BYTES:
            reason = f"this text has more than {MAX_TEXT_BYTES} bytes; a file has a file name"
            raise InvalidRequest([FieldFault(shown(self._part.name).strip("'"), reason)])

    def _end(self) -> None:
        self.ended = True


def _decoded(content: bytes, charset: str) -> str:
    try:
        return content.decode(charset)
    except UnicodeDecodeError:
        return content.decode("latin-1")
