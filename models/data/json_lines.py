"""Text files with one record a line, of which only the offsets of the lines are kept in memory."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from models.data.images import DataError


class Lines:
    """The non-blank lines of a UTF-8 file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        offsets, numbers, position = [], [], 0
        try:
            with file.open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    if line.strip():
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
        with self.file.open("rb") as stream:
            stream.seek(int(self._offsets[index]))
            line = stream.readline()
        try:
            return line.decode("utf-8-sig" if self._numbers[index] == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{self.where(index)} is no UTF-8: {error}") from error

    def entry(self, index: int) -> dict[str, Any]:
        """Parse the JSON object in a line; DataError if there is none."""
        return json_object(self.text(index), self.where(index))

    def select(self, keep: list[int]) -> None:
        """Keep these lines only."""
        self._offsets, self._numbers = self._offsets[keep], self._numbers[keep]


def json_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Parse a JSON object; DataError names `where` if it is something else."""
    try:
        data = json.loads(text)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{where} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise DataError(f"{where} holds a {type(data).__name__}; an object is expected")
    return data
