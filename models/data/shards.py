"""Tar shards as the package webdataset writes them: the members of a sample follow each other and share a name.

Of `0001/000017.jpg`, `0001/000017.txt` and `0001/000017.json` the picture is the first; the caption is the second, or
the `caption` of the third. A .json with `detection` or `grounding` is a line of `odvg.py`.

A shard is read from front to back, once an epoch, in a new order of shards; samples are shuffled in a buffer. Readers
share the shards, or if there are fewer shards than readers, the samples.
"""

import random
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import IO, Any

from models.data.captions import CaptionTexts, captions_of
from models.data.entries import checked
from models.data.faults import RecordFault
from models.data.folders import is_hidden
from models.data.images import SUFFIXES, DataError, PictureBytes
from models.data.odvg import Vocabulary, record
from models.data.records import CaptionRecord, Record
from models.data.text_files import decode_text, json_object

TEXT_SUFFIXES = (".txt", ".caption")


@dataclass
class Sample:
    """The members of a sample: offset and size in the shard by suffix, and their bytes once they are read.

    `repeated`: suffixes that occur again, so that nobody knows which member is meant.
    """

    shard: Path
    key: str
    members: dict[str, tuple[int, int]]
    data: dict[str, bytes] | None = None
    repeated: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        return f"{self.shard}: {self.key}"

    def read(self, file: IO[bytes]) -> "Sample":
        """Read the members' bytes in their order in the shard."""
        self.data = {}
        for suffix, (offset, size) in sorted(self.members.items(), key=lambda item: item[1]):
            file.seek(offset)
            self.data[suffix] = file.read(size)
            if len(self.data[suffix]) < size:
                raise DataError(f"{self.where}{suffix}: the archive ends within it")
        return self


class ShardStream:
    """The samples of tar files, without end. `label_map`: the categories of detection samples (see `odvg.py`)."""

    def __init__(self, shards: tuple[Path, ...], *, buffer: int = 1000, labels: dict[str, str] | None = None) -> None:
        if not shards:
            raise DataError("there is no shard")
        for shard in shards:
            if not shard.is_file():
                raise DataError(f"{shard} does not exist")
        self.name = str(shards[0]) if len(shards) == 1 else f"{shards[0]} and {len(shards) - 1} more"
        self._shards, self._buffer = shards, max(1, buffer)
        self._vocabulary = Vocabulary(labels)
        self._counts: dict[Path, int] = {}

    def read(self, *, seed: int, part: int, parts: int, skip: int) -> Iterator[Record | DataError]:
        """Iterate over the records of a reader after the first `skip`, of which only headers are read."""
        epoch = 0
        while skip and (count := self._count(seed, epoch, part, parts)) <= skip:
            self._check_share(count, part, parts)
            skip, epoch = skip - count, epoch + 1
        while True:
            found = 0
            for sample in self._shuffled(seed, epoch, part, parts, skip):
                found += 1
                try:
                    yield self._record(sample)
                except DataError as error:
                    yield error
            self._check_share(found, part, parts)
            skip, epoch = 0, epoch + 1

    def _check_share(self, count: int, part: int, parts: int) -> None:
        if count == 0:
            raise DataError(f"{self.name}: there is no sample for reader {part + 1} of {parts}")

    def _shuffled(self, seed: int, epoch: int, part: int, parts: int, skip: int) -> Iterator[Sample]:
        """Iterate over the samples of one epoch in their order; skipped ones are not read."""
        rng = random.Random(f"{seed} {epoch} {part} {parts}")
        buffer: list[Sample] = []
        drawn = 0

        def draw() -> Sample:
            nonlocal drawn
            drawn += 1
            place = rng.randrange(len(buffer))
            buffer[place], buffer[-1] = buffer[-1], buffer[place]
            return buffer.pop()

        for sample in self._in_order(seed, epoch, part, parts, lambda: drawn >= skip):
            buffer.append(sample)
            if len(buffer) >= self._buffer and (chosen := draw()) and drawn > skip:
                yield loaded(chosen)
        while buffer:
            if (chosen := draw()) and drawn > skip:
                yield loaded(chosen)

    def _in_order(self, seed: int, epoch: int, part: int, parts: int, wanted: Callable[[], bool]) -> Iterator[Sample]:
        """Iterate over a reader's samples in the order of the shards, with their bytes once `wanted()`."""
        shards = self._order(seed, epoch)
        shared = len(shards) < parts
        number = 0
        for shard in shards if shared else shards[part::parts]:
            with shard.open("rb") as file:
                for sample in samples(shard):
                    number += 1
                    if shared and (number - 1) % parts != part:
                        continue
                    yield sample.read(file) if wanted() else sample

    def _order(self, seed: int, epoch: int) -> list[Path]:
        order = list(self._shards)
        random.Random(f"{seed} {epoch}").shuffle(order)
        return order

    def _count(self, seed: int, epoch: int, part: int, parts: int) -> int:
        """Count the samples that a reader has in an epoch."""
        shards = self._order(seed, epoch)
        if len(shards) < parts:
            return len(range(part, sum(map(self._size, shards)), parts))
        return sum(map(self._size, shards[part::parts]))

    def _size(self, shard: Path) -> int:
        if shard not in self._counts:
            self._counts[shard] = sum(1 for _ in samples(shard))
        return self._counts[shard]

    def _record(self, sample: Sample) -> Record:
        data = sample.data
        assert data is not None
        if sample.repeated:
            raise RecordFault(f"{sample.where}: {sample.repeated[0]} occurs twice", kind="sample member")
        picture = next((PictureBytes(data[s], f"{sample.where}{s}") for s in SUFFIXES if s in data), None)
        if picture is None:
            raise RecordFault(f"{sample.where} has no picture; it has {sorted(data)}", kind="no picture")
        where = f"{sample.where}.json"
        entry: dict[str, Any] = json_object(data[".json"], where) if ".json" in data else {}
        if "detection" in entry or "grounding" in entry:
            return record(entry, picture, where, self._vocabulary)
        for suffix in TEXT_SUFFIXES:
            if suffix in data:
                member = f"{sample.where}{suffix}"
                return CaptionRecord(picture, captions_of(decode_text(data[suffix], member), member), sample.where)
        if "caption" in entry:
            texts = checked(CaptionTexts, entry, where).caption
            return CaptionRecord(picture, captions_of(texts, where), sample.where)
        message = f"{sample.where} has no caption, detection or grounding; it has {sorted(data)}"
        raise RecordFault(message, kind="no caption")


def samples(shard: Path) -> Iterator[Sample]:
    """Iterate over the samples of a shard, as offsets in it; DataError if it is no plain tar."""
    current: Sample | None = None
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps every member
                if not member.isfile() or any(map(is_hidden, member.name.split("/"))):
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if current is None or key != current.key:
                    if current is not None:
                        yield current
                    current = Sample(shard, key, {})
                suffix = f".{suffix.lower()}"
                if suffix in current.members:
                    current.repeated.append(suffix)
                current.members[suffix] = (member.offset_data, member.size)
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:  # headers that are no numbers, or huge
        raise DataError(f"{shard} is damaged or no uncompressed tar file: {error}") from error
    if current is not None:
        yield current


def loaded(sample: Sample) -> Sample:
    """Read the sample's bytes unless they are read already."""
    if sample.data is not None:
        return sample
    with sample.shard.open("rb") as file:
        return sample.read(file)


def shard_files(patterns: str | Sequence[str], folder: Path) -> tuple[Path, ...]:
    """Expand patterns like "cc/*.tar" or "cc/{00000..00331}.tar", relative to `folder`, to files."""
    files: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        expanded = [str(folder / text) for text in _braces(pattern)]
        found = [Path(name) for text in expanded for name in (sorted(glob(text)) if "*" in text else [text])]
        if not found:
            raise DataError(f"no shard matches {pattern!r} in {folder}")
        files += found
    return tuple(files)


def _braces(pattern: str) -> list[str]:
    """Expand `{007..010}`."""
    head, opening, rest = pattern.partition("{")
    inner, closing, tail = rest.partition("}")
    first, dots, last = inner.partition("..")
    if not opening:
        return [pattern]
    if not (closing and dots and first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise DataError(f"{pattern!r} has no range like {{00000..00331}} in its braces")
    numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return [f"{head}{number}{rest}" for number in numbers for rest in _braces(tail)]
