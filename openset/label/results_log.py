"""Results of a job on disk: a description of the run, and a JSON line for each picture, appended as they come."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel

from openset.folder_lock import locked
from openset.results import Detection
from openset.sources import OUTPUT_FILES


class LogError(ValueError):
    """A folder that a job cannot write to, or whose results belong to another job."""


class PictureResult(BaseModel):
    """Result of one picture: its size and detections (boxes x0, y0, x1, y1 in pixels), or the `error` instead.

    `modified_ns` and `file_bytes` tell whether the file has changed since.
    """

    image: str
    width: int = 0
    height: int = 0
    detections: list[Detection] = []
    error: str | None = None
    modified_ns: int | None = None
    file_bytes: int | None = None


class ResultsLog:
    """The results in `folder`, of one job, which the folder's `run.json` describes.

    A job with the same description goes on where the last one ended, even if that was killed in the middle of a line,
    and tries again what failed, and what is no longer current; LogError for any other, unless nothing has been
    written, or while another process writes.
    `outdated`: how many results of earlier runs were not current.
    """

    def __init__(
        self,
        folder: Path,
        description: dict[str, Any],
        *,
        is_current: Callable[[PictureResult], bool] = lambda _: True,
    ) -> None:
        description_file, results_file = OUTPUT_FILES
        self.file = folder / results_file
        folder.mkdir(parents=True, exist_ok=True)
        self._done: set[str] = set()
        self.failures = 0  # results with an error
        self.outdated = 0
        self._is_current = is_current
        with ExitStack() as held:
            held.enter_context(locked(folder, LogError(f"another process is writing to {folder}")))
            _check_description(folder / description_file, self.file, description)
            if self.file.exists():
                self._keep_found()
            self._stream = held.enter_context(self.file.open("ab"))
            self._held = held.pop_all()

    def _keep_found(self) -> None:
        """Drop a line cut short, what failed, and what is no longer current."""
        part = self.file.with_suffix(".part")
        with self.file.open("rb") as written, part.open("wb") as kept:
            for number, line in enumerate(written, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    result = PictureResult.model_validate_json(line)
                except ValueError:
                    raise LogError(
                        f"{self.file}, line {number} is damaged: remove the line, and its picture is asked for again"
                    ) from None
                if result.error is not None or result.image in self._done:
                    continue
                if not self._is_current(result):
                    self.outdated += 1
                    continue
                kept.write(line)
                self._count(result)
        part.replace(self.file)

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
        self._held.close()

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
        _write_description(file, description)
        return
    try:
        written = json.loads(file.read_bytes())
    except ValueError:
        written = None
    if not isinstance(written, dict):
        raise LogError(f"{file} is damaged: give another --out, or remove this folder")
    if written != json.loads(json.dumps(description)):
        if results.exists() and not results.stat().st_size:  # a run whose first request was refused
            _write_description(file, description)
            return
        names = [name for name in description | written if written.get(name) != description.get(name)]
        raise LogError(
            f"{file.parent} has results of another run, with other {', '.join(names)}: give another --out, or remove it"
        )


def _write_description(file: Path, description: dict[str, Any]) -> None:
    part = file.with_suffix(".part")
    part.write_text(json.dumps(description, indent=1, ensure_ascii=False), "utf-8")
    part.replace(file)
