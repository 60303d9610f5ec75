"""The categories of a set: names that differ only in case and blanks are one label, as they are one text to a model."""

import unicodedata
from collections.abc import Iterable


class CategoryNames:
    """Names in the order in which they were added, each in its first spelling."""

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._places: dict[str, int] = {}
        self._names: list[str] = []
        self.merged = 0
        for name in names:
            self.add(name)

    @property
    def names(self) -> tuple[str, ...]:
        """All names; a category's label is an index into them."""
        return tuple(self._names)

    def add(self, name: str) -> int:
        """The label of a name, which is added unless it is there."""
        place = self._places.setdefault(_key(name), len(self._names))
        if place == len(self._names):
            self._names.append(" ".join(name.split()))
        else:
            self.merged += 1
        return place

    def place(self, name: str) -> int | None:
        """The label of a name; None for one that is not there."""
        return self._places.get(_key(name))


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", " ".join(name.split()).lower())
