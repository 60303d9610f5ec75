"""Faults of data-set records: each is raised, or on request left out and counted by its kind."""

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

from models.data.images import BrokenPicture, DataError

LOG = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")


class RecordFault(DataError):
    """A field of a record that cannot be used; `kind` names the field, such as "annotation bbox", without its value."""

    def __init__(self, message: str, *, kind: str = "record") -> None:  # the default lets pickle rebuild it
        super().__init__(message)
        self.kind = kind


def kind_of_fault(error: DataError) -> str:
    """The kind that a fault is counted under."""
    if isinstance(error, RecordFault):
        return error.kind
    return "picture" if isinstance(error, BrokenPicture) else "record"


class Faults:
    """Faulty entries of the set `name`: the first one is raised, or with `skip` all are left out and counted."""

    def __init__(self, name: str, *, skip: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.first: DataError | None = None
        self._name, self._skip = name, skip

    @property
    def total(self) -> int:
        """The number of entries left out."""
        return self.counts.total()

    def add(self, error: DataError) -> None:
        """Count a fault, or raise it."""
        if not self._skip:
            raise error
        self.first = self.first or error
        self.counts[kind_of_fault(error)] += 1

    def kept(self, entries: Iterable[T], check: Callable[[T], R]) -> Iterator[R]:
        """Yield what `check` returns for each entry, but for the entries in which it finds a fault."""
        for entry in entries:
            try:
                passed = check(entry)
            except DataError as error:
                self.add(error)
                continue
            yield passed

    def passing(self, entries: Iterable[T], check: Callable[[T], object]) -> Iterator[T]:
        """Yield the entries in which `check` finds no fault."""

        def unchanged(entry: T) -> T:
            check(entry)
            return entry

        return self.kept(entries, unchanged)

    def unique(
        self, entries: Iterable[T], key: Callable[[T], Hashable], fault: Callable[[T, str], RecordFault]
    ) -> list[T]:
        """List the entries whose key no other one has, or is None: of several with one key, nobody knows which counts.

        `fault` makes the error for an entry, from the entry and "twice" or "3 times".
        """
        listed = list(entries)
        times = Counter(map(key, listed))

        def once(entry: T) -> T:
            count = times[key(entry)]
            if count > 1 and key(entry) is not None:
                raise fault(entry, "twice" if count == 2 else f"{count} times")
            return entry

        return list(self.kept(listed, once))

    def no_record(self) -> DataError:
        """Error for a set of which nothing is left."""
        first = "" if self.first is None else f" without a fault; the first fault: {self.first}"
        return DataError(f"{self._name} has no record{first}")

    def log(self) -> None:
        """Warn of what was left out."""
        if self.first is not None:
            LOG.warning(
                "%s: %d faulty entries are left out (%s), the first: %s",
                self._name,
                self.total,
                counts_text(self.counts),
                self.first,
            )


def counts_text(counts: Mapping[str, int]) -> str:
    """Counts in words: "picture 2, annotation bbox 1"."""
    return ", ".join(f"{kind} {count}" for kind, count in Counter(counts).most_common())
