"""Run queries for a command: model options, bounded concurrency, an answer log to resume from, exit status.

The answer log is a file of JSON lines: a header that identifies the run, then the answers in the order of the queries.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from models.data.faults import RecordFault, kind_of_fault
from models.data.images import BrokenPicture, DataError
from models.data.text_files import parse_json
from models.evaluation.backends import BackendError, RecordRefused
from models.evaluation.metrics import Query
from openset.ordered_map import map_in_order
from server.contract.manifest import BundleError
from server.settings import SettingsError

Q = TypeVar("Q")


class AnswerLogError(ValueError):
    """An answer log that a run cannot resume from or would overwrite."""


def exit_status(command: str, work: Callable[[argparse.Namespace], str], args: argparse.Namespace) -> int:
    """Print the result of `work`; 2, with an error message, for data or a model that cannot be used."""
    try:
        print(work(args))
    except (DataError, AnswerLogError, BackendError, BundleError, SettingsError, OSError) as error:
        of_a_record = isinstance(error, RecordFault | BrokenPicture) and not args.skip_faulty
        hint = " (--skip-faulty leaves such records out, and counts them)" if of_a_record else ""
        print(f"openset {command}: {error}{hint}", file=sys.stderr)
        return 2
    return 0


@dataclass(frozen=True)
class LeftOut:
    """A query that was not answered because its record is faulty, and the kind of the fault."""

    kind: str
    reason: str

    @classmethod
    def of(cls, answer: Any) -> "LeftOut | None":
        """A record left out, if that is what an answer of `answer_or_fault` says."""
        return cls(**answer) if isinstance(answer, dict) and answer.keys() == {"kind", "reason"} else None


def answer_or_fault(query: Query, ask: Callable[[bytes], Any], *, skip: bool) -> Any:
    """The answer to a query; with `skip`, for a faulty record the fields of `LeftOut`. Errors name the record.

    Faulty is a picture that cannot be read, or that the model refuses, and texts that it refuses: too long, no words.
    """
    try:
        return ask(query.image_bytes())
    except (DataError, RecordRefused) as error:
        kind = error.kind if isinstance(error, RecordRefused) else kind_of_fault(error)
        message = str(error) if str(error).startswith(query.source) else f"{query.source}: {error}"
        if not skip:
            raise RecordFault(message, kind=kind) from error
        return asdict(LeftOut(kind, message))
    except BackendError as error:
        raise BackendError(f"{query.source}: {error}") from error


def logged_answers(
    file: Path,
    header: dict[str, Any],
    queries: Iterable[Q],
    ask: Callable[[Q], Any],
    *,
    parallel: int,
    resume: bool,
) -> Iterator[tuple[Q, Any]]:
    """Yield each query with its answer (JSON), and append the answers to the log `file`.

    With `resume`, answers in the log are read instead of asked for again. AnswerLogError for a log of another run, or
    without `resume` for any log.
    """
    remaining = iter(queries)
    if file.exists() and not resume:
        raise AnswerLogError(f"{file} exists: continue with --resume, or remove it")
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a+b") as stream:
        stream.seek(0)
        end = _header_length(stream.readline(), header, file)
        if end == 0:
            stream.truncate(0)
            end = stream.write(_line(header))
            stream.flush()
        stream.seek(end)
        while (line := stream.readline()).endswith(b"\n"):
            end += len(line)
            yield _next(remaining, file), _logged(line, file)
        stream.truncate(end)  # drop a line that an interruption cut short
        for query, answer in map_in_order(ask, remaining, parallel=parallel):
            stream.write(_line(answer))
            stream.flush()
            yield query, answer


def _header_length(line: bytes, header: dict[str, Any], file: Path) -> int:
    """Bytes of a log's header line; 0 for an empty log."""
    if not line.endswith(b"\n"):
        return 0
    if (written := _logged(line, file)) != json.loads(json.dumps(header)):
        raise AnswerLogError(f"{file} belongs to another run: its header is {written}, this run's is {header}")
    return len(line)


def _next(queries: Iterator[Q], file: Path) -> Q:
    try:
        return next(queries)
    except StopIteration:
        raise AnswerLogError(f"{file} has more answers than there are queries: the data set has changed") from None


def _logged(line: bytes, file: Path) -> Any:
    try:
        return parse_json(line, str(file))
    except DataError as error:
        raise AnswerLogError(f"{error}: remove it, and begin anew") from error


def _line(data: Any) -> bytes:
    return json.dumps(data).encode() + b"\n"
