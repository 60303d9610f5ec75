"""Results of a job on disk: a description of the run, and a JSON line for each picture, appended as they come."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from openset.results import Detection


class LogError(ValueError):
    """A folder that a job cannot write to, or whose results belong to another job."""


class PictureResult(BaseModel):
    """Result of one picture: its size and detections (boxes x0, y0, x1, y1 in pixels), or the `error` instead."""

    image: str
    width: int = 0
    height: int = 0
    detections: list[Detection] = []
    error: str | None = None


class ResultsLog:
    """The results in `folder`, of one job, which the folder's `run.json` describes.

    A job with the same description goes on where the last one ended, even if that was killed in the middle of a line;
    LogError for any other, or while another process writes.
    """

    def __init__(self, folder: Path, description: dict[str, Any]) -> None:
        self.file = folder / "results.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        _check_description(folder / "run.json", self.file, description)
        self._stream = self.file.open("ab")
        _lock(self._stream.fileno(), folder)
        self._stream.truncate(_complete_bytes(self.file))
        self._done: set[str] = set()
        self.failures = 0  # results with an error
        for result in self.read():
            self._count(result)

    def append(self, result: PictureResult) -> None:
        """Write one result, whole once this returns."""
        self._stream.write(result.model_dump_json(exclude_none=True).encode() + b"\n")
        self._stream.flush()
        self._count(result)

    def read(self) -> Iterator[PictureResult]:
        """All results written so far."""
        with self.file.open("rb") as stream:
            for line in stream:
                yield PictureResult.model_validate_json(line)

    def done(self) -> set[str]:
        """Names of the pictures that have a result."""
        return self._done.copy()

    def close(self) -> None:
        """Let go of the folder."""
        self._stream.close()

    def _count(self, result: PictureResult) -> None:
        self._done.add(result.image)
        self.failures += result.error is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


def _check_description(file: Path, results: Path, description: dict[str, Any]) -> None:
    if not file.exists():
        if results.exists():
            raise LogError(f"{results} is there without {file.name}: remove it, or give another --out")
        part = file.with_suffix(".part")
        part.write_text(json.dumps(description, indent=1, ensure_ascii=False), "utf-8")
        part.replace(file)
        return
    written = json.loads(file.read_text("utf-8"))
    if written != json.loads(json.dumps(description)):
        names = [name for name in description | written if written.get(name) != description.get(name)]
        raise LogError(
            f"{file.parent} has results of another run, with other {', '.join(names)}: give another --out, or remove it"
        )


def _complete_bytes(file: Path) -> int:
    """Bytes of the whole lines: a kill may have cut the last one short."""
    content = file.read_bytes()
    return content.rfind(b"\n") + 1


def _lock(descriptor: int, folder: Path) -> None:
    """Keep other processes from writing; the lock ends with the process. Without effect on Windows."""
    if os.name == "nt":
        return
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise LogError(f"another process is writing to {folder}") from None
