"""ODVG JSON lines, as Open-GroundingDino and MM-Grounding-DINO read them: detection or grounding, a picture a line.

{"filename": "a.jpg", "height": 480, "width": 640, "detection": {"instances": [{"bbox": [x0, y0, x1, y1], "label": 3}]}}
{"filename": "b.jpg", "grounding": {"caption": "a man and his dog", "regions":
    [{"bbox": [x0, y0, x1, y1], "phrase": "his dog", "tokens_positive": [[10, 17]]}]}}

A `label` is a key of the label map; a `category`, the name itself, may replace it. A region's `bbox` may be a list of
boxes; without `tokens_positive`, the span of `phrase` is found in the caption.
"""

import posixpath
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from models.data.categories import CategoryNames
from models.data.entries import (
    Box,
    DataEntry,
    FilePath,
    FourNumbers,
    Id,
    SizedEntry,
    Spans,
    Words,
    box_array,
    checked,
    checked_spans,
    fitted_box,
    shown,
)
from models.data.faults import Faults, RecordFault
from models.data.images import DataError, Picture, PictureFile
from models.data.records import DetectionRecord, GroundingRecord, Region
from models.data.text_files import Lines, json_object, read_text

_CORNERS = "four finite numbers x0, y0, x1, y1 are expected"
Size = tuple[int, int] | None
SomeBoxes = Annotated[list[FourNumbers], Field(min_length=1)]


class OdvgLine(SizedEntry):
    """A line, or the .json of a sample in a shard, which has its picture beside it."""

    kind: ClassVar[str] = "line"
    detection: dict[str, Any] | None = Field(None, description="an object with a list of instances is expected")
    grounding: dict[str, Any] | None = Field(None, description="an object with a caption and regions is expected")


class NamedPicture(DataEntry):
    """The file of a line's picture."""

    kind: ClassVar[str] = "line"
    filename: FilePath = Field(description="a path is expected")


class DetectionLine(DataEntry):
    """The objects of a picture, complete for the categories of the set."""

    kind: ClassVar[str] = "detection"
    instances: list[Any] = Field(description="a list of objects is expected")


class Instance(DataEntry):
    """An object of a picture."""

    kind: ClassVar[str] = "instance"
    bbox: FourNumbers = Field(description=_CORNERS)
    label: Id | None = Field(None, description="a key of the label map is expected")
    category: Words | None = Field(None, description="a text that is not blank is expected")


class GroundingLine(DataEntry):
    """A caption, and the phrases of it that are boxed."""

    kind: ClassVar[str] = "grounding"
    caption: Words = Field(description="a text that is not blank is expected")
    regions: list[Any] = Field(description="a list of objects is expected")


class GroundedRegion(DataEntry):
    """A phrase, by its characters or its words, and its box or boxes."""

    kind: ClassVar[str] = "region"
    bbox: FourNumbers | SomeBoxes = Field(description=f"{_CORNERS}, or a list of such")
    tokens_positive: Spans | None = Field(None, description="a list of [start, end) is expected")
    phrase: Any = None

    @property
    def boxes(self) -> list[list[float]]:
        """All boxes of the phrase."""
        return [one for one in self.bbox if isinstance(one, list)] or [
            [one for one in self.bbox if not isinstance(one, list)]
        ]


class OdvgSet:
    """The pictures of an ODVG file. Every line is checked once: a faulty one raises DataError, or `skip` omits it.

    `label_map`: a JSON file of {"0": "person", ...}; without it, the set has the categories that occur.
    """

    def __init__(self, annotations: Path, pictures: Path, *, label_map: Path | None = None, skip: bool = False) -> None:
        self.name = str(annotations)
        self.faults = Faults(self.name, skip=skip)
        self._pictures, self._lines = pictures, Lines(annotations)
        self._vocabulary = Vocabulary(None if label_map is None else read_label_map(label_map))
        found = self.faults.kept(range(len(self._lines)), self._checked_line)
        lines = self.faults.unique(found, lambda line: line.picture, self._repeated_picture)
        for line in lines:
            for name in line.categories:
                self._vocabulary.categories.add(name)
        self._lines.select([line.number for line in lines])
        self.faults.log()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the categories; a label is an index into them."""
        return self._vocabulary.categories.names

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> DetectionRecord | GroundingRecord:
        entry, where = self._lines.entry(index), self._lines.where(index)
        picture = PictureFile(self._pictures / checked(NamedPicture, entry, where).filename)
        return record(entry, picture, where, self._vocabulary)

    def _checked_line(self, index: int) -> "_Line":
        entry, where = self._lines.entry(index), self._lines.where(index)
        filename = checked(NamedPicture, entry, where).filename
        parts = _read(entry, where, self._vocabulary.labels)
        picture = posixpath.normpath(filename) if parts.caption is None else None
        return _Line(index, picture, tuple(dict.fromkeys(sys.intern(name) for name, _ in parts.instances)))

    def _repeated_picture(self, line: "_Line", times: str) -> RecordFault:
        message = f"{self._lines.where(line.number)}: its picture {shown(line.picture)} occurs {times}"
        return RecordFault(f"{message}, so each line has only some of its objects", kind="line filename")


class _Line(NamedTuple):
    """A line found right; `picture`: its file, None beside a caption, since a picture may have several."""

    number: int
    picture: str | None
    categories: tuple[str, ...]


class Vocabulary:
    """The categories of a set; with a label map, of which it has all names, also a name for each label."""

    def __init__(self, labels: Mapping[str, str] | None = None) -> None:
        self.labels = labels
        self.categories = CategoryNames((labels or {}).values())


@dataclass(frozen=True)
class _Parts:
    """The contents of a line: instances as names and boxes, or a caption with regions."""

    size: Size
    instances: tuple[tuple[str, Box], ...] = ()
    caption: str | None = None
    regions: tuple[Region, ...] = ()


def record(
    entry: dict[str, Any], picture: Picture, where: str, vocabulary: Vocabulary
) -> DetectionRecord | GroundingRecord:
    """Convert a line to a record; DataError names what is wrong with it."""
    parts = _read(entry, where, vocabulary.labels)
    if parts.caption is not None:
        return GroundingRecord(picture, parts.caption, parts.regions, where, parts.size)
    labels = [vocabulary.categories.place(name) for name, _ in parts.instances]
    if None in labels:
        unknown = parts.instances[labels.index(None)][0]
        raise RecordFault(f"{where}: {shown(unknown)} is not among the set's categories", kind="instance category")
    boxes = box_array([box for _, box in parts.instances])
    names = vocabulary.categories.names
    return DetectionRecord(picture, boxes, np.asarray(labels, np.int64), names, where, parts.size)


def read_label_map(file: Path) -> dict[str, str]:
    """Read a label map; DataError if the file is none."""
    data = json_object(read_text(file), str(file))
    try:
        return TypeAdapter(dict[str, Words]).validate_python(data)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
    raise DataError(f'{file}: the name of {key!r} is {shown(data[key])}; like {{"0": "person", ...}} is expected')


def _read(entry: Any, where: str, labels: Mapping[str, str] | None) -> _Parts:
    line = checked(OdvgLine, entry, where)
    if (line.detection is None) == (line.grounding is None):
        either = "both" if line.detection else "neither"
        message = f"{where} has {either} of 'detection' and 'grounding'; it has {shown(sorted(entry))}"
        raise RecordFault(message, kind="line entry")
    if line.detection is not None:
        return _Parts(line.size, instances=tuple(_instances(line.detection, line.size, where, labels)))
    grounding = checked(GroundingLine, line.grounding, where)
    regions = tuple(_region(region, grounding.caption, line.size, where) for region in grounding.regions)
    return _Parts(line.size, caption=grounding.caption, regions=regions)


def _instances(detection: Any, size: Size, where: str, labels: Mapping[str, str] | None) -> Iterator[tuple[str, Box]]:
    for value in checked(DetectionLine, detection, where).instances:
        instance = checked(Instance, value, where)
        x0, y0, x1, y1 = instance.bbox
        box = fitted_box((x0, y0, x1, y1), size, where, kind="instance bbox")
        yield _category(instance, labels, where), box


def _category(instance: Instance, labels: Mapping[str, str] | None, where: str) -> str:
    name = instance.category
    if labels is not None and instance.label is not None:
        name = labels.get(str(instance.label))
        if name is None:
            raise RecordFault(f"{where}: label {shown(instance.label)} is not in the label map", kind="instance label")
    if name is None:
        raise RecordFault(
            f"{where}: an instance has label {shown(instance.label)} and category {shown(instance.category)};"
            " a label map or a name is needed",
            kind="instance category",
        )
    return name


def _region(value: Any, caption: str, size: Size, where: str) -> Region:
    region = checked(GroundedRegion, value, where)
    boxes = [fitted_box((b[0], b[1], b[2], b[3]), size, where, kind="region bbox") for b in region.boxes]
    if region.tokens_positive is not None:
        return Region(checked_spans(region.tokens_positive, caption, where), box_array(boxes))
    return Region(_find_phrase(region.phrase, caption, where), box_array(boxes))


def _find_phrase(phrase: Any, caption: str, where: str) -> tuple[tuple[int, int], ...]:
    """Find the first span in `caption` that is `phrase` as whole words, in any case; RecordFault without one."""
    words = phrase.strip() if isinstance(phrase, str) else ""
    match = re.search(rf"(?<!\w){re.escape(words)}(?!\w)", caption, re.IGNORECASE)
    if match is None or not words:
        message = f"{where}: the phrase {shown(phrase)} is not in the caption {shown(caption)}"
        raise RecordFault(message, kind="region phrase")
    return ((match.start(), match.end()),)
