"""The folder that a job writes: one of this machine, or a copy of one at an address (`s3://bucket/labels`)."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from openset.file_systems import FileSystem, is_address, open_address
from openset.label.results_log import LogError

SAVE_S = 30.0  # at most so much is lost with the machine, at an address
_RESULTS, _RUN, _PARTS = "results.jsonl", "run.json", "results.parts"


@contextmanager
def open_output(given: str) -> Iterator[tuple[Path, Callable[[], None]]]:
    """The folder to write to, and a function to call after each result; at the end all files are at their address.

    Object stores cannot append, so new results are parts there until the job ends, and those of a job that was stopped
    are fetched by the next. Nothing keeps two jobs from one address at a time. LogError where it cannot be opened.
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
    """A folder with the results that are at `path`; a part there is named by the bytes before it."""

    def __init__(self, filesystem: FileSystem, path: str, folder: Path) -> None:
        self.folder, self._filesystem, self._path = folder, filesystem, path
        self._saved_at = time.monotonic()
        results = folder / _RESULTS
        for name in (_RUN, _RESULTS):
            if filesystem.exists(f"{path}/{name}"):
                (folder / name).write_bytes(filesystem.cat_file(f"{path}/{name}"))
        self._saved = results.stat().st_size if results.exists() else 0
        for part in self._parts():
            # One before the end was left by a job that ended after it had written the whole.
            if int(Path(part).stem) == self._saved:
                with results.open("ab") as stream:
                    self._saved += stream.write(filesystem.cat_file(part))

    def save_sometimes(self) -> None:
        """Save where SAVE_S have passed."""
        if time.monotonic() - self._saved_at >= SAVE_S:
            self.save()

    def save(self) -> None:
        """Write the results that are not at the address yet."""
        self._saved_at = time.monotonic()
        results = self.folder / _RESULTS
        if not results.exists():
            return
        with results.open("rb") as stream:
            stream.seek(self._saved)
            new = stream.read()
        if new:
            self._filesystem.pipe_file(f"{self._path}/{_RUN}", (self.folder / _RUN).read_bytes())
            self._filesystem.pipe_file(f"{self._path}/{_PARTS}/{self._saved:015d}.jsonl", new)
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
