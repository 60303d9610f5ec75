"""Text files that a user brings: UTF-8 with or without a byte order mark, JSON, and files with one record a line."""

import codecs
import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from models.data.faults import RecordFault
from models.data.images import DataError
from server.contract.regular_files import open_regular, read_regular

# Parsed JSON takes several times as much memory; a record in a line of its own has far fewer bytes.
MOST_BYTES, MOST_LINE_BYTES = 2**33, 2**26


class RepeatedKeys(dict[str, Any]):
    """A JSON object with a key that occurs twice, so that nobody knows which value is meant."""


class Lines:
    """The non-blank lines of a UTF-8 file, of which only the offsets are kept in memory."""

    def __init__(self, file: Path) -> None:
        self.file = file
        offsets, numbers, position = [], [], 0
        try:
            with open_regular(file) as stream:
                for number, line in enumerate(iter(lambda: stream.readline(MOST_LINE_BYTES + 1), b""), 1):
                    if len(line) > MOST_LINE_BYTES:
                        raise DataError(f"{file}, line {number}, has more than {MOST_LINE_BYTES} bytes")
                    if line.removeprefix(codecs.BOM_UTF8).strip():
                        offsets.append(position)
                        numbers.append(number)
                    position += len(line)
        except OSError as error:
            raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
        self._offsets, self._numbers = np.asarray(offsets, np.int64), np.asarray(numbers, np.int64)

    def __len__(self) -> int:
        return len(self._offsets)

    def where(self, index: int) -> str:
        """File and line number, for messages."""
        return f"{self.file}, line {self._numbers[index]}"

    def text(self, index: int) -> str:
        """Read a line without its end; DataError if it is no UTF-8."""
        with open_regular(self.file) as stream:
            stream.seek(int(self._offsets[index]))
            line = stream.readline()
        return decode_text(line, self.where(index)).rstrip("\r\n")

    def entry(self, index: int) -> dict[str, Any]:
        """Parse the JSON object in a line; DataError if there is none."""
        return json_object(self.text(index), self.where(index))

    def select(self, keep: list[int]) -> None:
        """Keep these lines only."""
        self._offsets, self._numbers = self._offsets[keep], self._numbers[keep]


def read_text(file: Path) -> str:
    """Read a UTF-8 file, without the byte order mark that Windows puts first; DataError names a file that is none."""
    try:
        return decode_text(read_regular(file, most=MOST_BYTES), str(file))
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error


def decode_text(data: bytes, where: str) -> str:
    """Decode UTF-8, without a byte order mark; DataError names `where` if it is something else."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecordFault(f"{where} is no UTF-8: {error}", kind="no UTF-8") from error


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON; DataError if it is none. Objects with a repeated key become `RepeatedKeys`, NaN a float."""
    try:
        return json.loads(
            decode_text(text, where) if isinstance(text, bytes) else text, object_pairs_hook=_object_of_pairs
        )
    except RecursionError:
        raise RecordFault(f"{where} is no usable JSON: it is nested too deeply", kind="no JSON") from None
    except ValueError as error:  # also an integer of more than 4300 digits
        if isinstance(error, DataError):
            raise
        raise RecordFault(f"{where} is no JSON: {error}", kind="no JSON") from error


def json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object; DataError names `where` if it is something else, or has a key twice."""
    data = parse_json(text, where)
    if not isinstance(data, dict):
        raise RecordFault(f"{where} holds a {type(data).__name__}; an object is expected", kind="no JSON object")
    if isinstance(data, RepeatedKeys):
        raise RecordFault(f"{where}: a key occurs twice; it has {list(data)[:10]}", kind="repeated key")
    return data


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML; DataError if it is none, or has a key twice in one mapping."""
    try:
        return yaml.load(text, _YamlLoader)
    except Exception as error:  # of values that do not fit their tags, it raises what Python does
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RecordFault(f"{where} is no usable YAML: {reason}", kind="no YAML") from error


class _YamlLoader(yaml.SafeLoader):
    """Loads plain values only, and no mapping with a key twice, of which the last would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if repeated := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {repeated[1]!r} occurs twice")
        return super().construct_mapping(node, deep=deep)


def _object_of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    return data if len(data) == len(pairs) else RepeatedKeys(data)
