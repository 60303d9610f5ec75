"""The folder that a job writes: one of this machine, or a copy of one at an address (`s3://bucket/labels`)."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from openset.file_systems import FileSystem, is_address, open_address
from openset.label.results_log import LogError
from openset.sources import OUTPUT_FILES

SAVE_S = 30.0  # at most so much is lost with the machine, at an address
_RUN, _RESULTS = OUTPUT_FILES
_PARTS = "results.parts"


@contextmanager
def open_output(given: str) -> Iterator[tuple[Path, Callable[[], None]]]:
    """The folder to write to, and a function to call when the log is open and after each result.

    At an address all files are there at the end. Object stores cannot append, so new results are parts until then, and
    those of a job that was stopped are fetched by the next. Nothing keeps two jobs from one address at a time. LogError
    where it cannot be opened.
    """
    if not is_address(given):
        yield Path(given), lambda: None
        return
    try:
        filesystem, path = open_address(given)
    except (ValueError, ImportError) as error:  # no such protocol; a package for it is missing
        raise LogError(str(error)) from None
    with tempfile.TemporaryDirectory(prefix="openset-label-") as scratch:
        copy = _RemoteCopy(filesystem, path, Path(scratch))
        try:
            yield copy.folder, copy.save_sometimes
        except LogError as error:
            raise LogError(str(error).replace(scratch, given.rstrip("/"))) from None
        except BaseException:
            copy.save()
            raise
        copy.finish()


class _RemoteCopy:
    """A folder with the results that are at `path`, where a log drops what it has twice."""

    def __init__(self, filesystem: FileSystem, path: str, folder: Path) -> None:
        self.folder, self._filesystem, self._path = folder, filesystem, path
        self._saved_at, self._saved = time.monotonic(), -1  # bytes, from when the log is open
        for name in OUTPUT_FILES:
            if filesystem.exists(f"{path}/{name}"):
                (folder / name).write_bytes(filesystem.cat_file(f"{path}/{name}"))
        parts = self._parts()
        self._next = 1 + max((int(Path(part).stem) for part in parts), default=0)
        for part in parts:
            with (folder / _RESULTS).open("ab") as stream:
                stream.write(filesystem.cat_file(part))

    def save_sometimes(self) -> None:
        """Save where SAVE_S have passed; the first call, when the log is open, marks what is there already."""
        if self._saved < 0:
            self._saved = (self.folder / _RESULTS).stat().st_size
        elif time.monotonic() - self._saved_at >= SAVE_S:
            self.save()

    def save(self) -> None:
        """Write the results that are not at the address yet."""
        self._saved_at = time.monotonic()
        if self._saved < 0:
            return
        with (self.folder / _RESULTS).open("rb") as stream:
            stream.seek(self._saved)
            new = stream.read()
        if new:
            self._filesystem.pipe_file(f"{self._path}/{_RUN}", (self.folder / _RUN).read_bytes())
            self._filesystem.pipe_file(f"{self._path}/{_PARTS}/{self._next:06d}.jsonl", new)
            self._next += 1
            self._saved += len(new)

    def finish(self) -> None:
        """Write all files, and remove the parts, which `results.jsonl` then has."""
        for file in sorted(self.folder.rglob("*")):
            if file.is_file():
                self._filesystem.put_file(str(file), f"{self._path}/{file.relative_to(self.folder).as_posix()}")
        if parts := self._parts():
            self._filesystem.rm(parts)

    def _parts(self) -> list[str]:
        self._filesystem.invalidate_cache()
        folder = f"{self._path}/{_PARTS}"
        return sorted(self._filesystem.find(folder)) if self._filesystem.exists(folder) else []
