"""Answers written down as they come, so that a run that was cut off goes on where it stopped.

A file of JSON lines: what the run is about, then the answers in the order of the questions.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from models.evaluation.bounded_map import in_order

Q = TypeVar("Q")


class JournalError(ValueError):
    """A file of answers that a run cannot go on with."""


def answered(
    file: Path,
    about: dict[str, Any],
    questions: Iterable[Q],
    ask: Callable[[Q], Any],
    *,
    parallel: int,
    resume: bool,
) -> Iterator[tuple[Q, Any]]:
    """Each question with its answer, as JSON; with `resume`, those that `file` has are read from there.

    JournalError where the file is about something else, or is there although nothing is to be resumed.
    """
    waiting = iter(questions)
    if file.exists() and not resume:
        raise JournalError(f"{file} is there already: go on with --resume, or remove it")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        stream.seek(0)
        end = _head(stream.readline(), about, file)
        if end == 0:
            stream.truncate(0)
            end = stream.write(_line(about))
            stream.flush()
        stream.seek(end)
        while (line := stream.readline()).endswith(b"\n"):
            end += len(line)
            yield _next(waiting, file), json.loads(line)
        stream.truncate(end)  # a line that was being written when the run was cut off
        for question, answer in in_order(ask, waiting, parallel=parallel):
            stream.write(_line(answer))
            stream.flush()
            yield question, answer


def _head(line: bytes, about: dict[str, Any], file: Path) -> int:
    """Where the answers begin; 0 where nothing was written yet."""
    if not line.endswith(b"\n"):
        return 0
    if (written := json.loads(line)) != json.loads(json.dumps(about)):
        raise JournalError(f"{file} is of another run: it says {written}, this one {about}")
    return len(line)


def _next(questions: Iterator[Q], file: Path) -> Q:
    try:
        return next(questions)
    except StopIteration:
        raise JournalError(f"{file} has more answers than there are questions: the set has changed") from None


def _line(data: Any) -> bytes:
    return json.dumps(data).encode() + b"\n"
