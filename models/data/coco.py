"""COCO JSON: `images`, `annotations` and `categories`, with boxes x, y, width, height.

Also the variant in which an image has a `caption` and an annotation `tokens_positive`, the characters of the phrase it
is named by (MDETR's and GLIP's mixed sets); and LVIS's `neg_category_ids` and `not_exhaustive_category_ids`.
"""

import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from models.data.categories import CategoryNames
from models.data.entries import (
    Area,
    Box,
    DataEntry,
    FilePath,
    Flag,
    FourNumbers,
    Id,
    SizedEntry,
    Spans,
    Words,
    absent_labels,
    checked,
    checked_spans,
    fitted_box,
    shown,
)
from models.data.faults import Faults, RecordFault
from models.data.images import DataError, PictureFile
from models.data.records import DetectionRecord, GroundingRecord, Int64, Region
from models.data.text_files import json_object, read_text

NO_LABEL = -1


class CocoCategory(DataEntry):
    """An entry of `categories`; `supercategory` is the name of its parent, by custom "none" for none."""

    kind: ClassVar[str] = "category"
    id: Id = Field(description="an integer or a text is expected")
    name: Words = Field(description="a text that is not blank is expected")
    supercategory: Any = None


class CocoImage(SizedEntry):
    """An entry of `images`."""

    kind: ClassVar[str] = "image"
    id: Id = Field(description="an integer or a text is expected")
    file_name: FilePath = Field(description="a path is expected")
    caption: Words | None = Field(None, description="a text that is not blank is expected")
    neg_category_ids: list[Id] | None = Field(None, description="a list of ids of categories is expected")


class CocoAnnotation(DataEntry):
    """An entry of `annotations`."""

    kind: ClassVar[str] = "annotation"
    image_id: Id = Field(description="the id of an image is expected")
    category_id: Id | None = Field(None, description="the id of a category is expected")
    bbox: FourNumbers = Field(description="four finite numbers x, y, width, height are expected")
    area: Area | None = Field(None, description="a number from 0 to 1e10 is expected")
    iscrowd: Flag = Field(False, description="0 or 1 is expected")
    tokens_positive: Spans | None = Field(None, description="a list of [start, end) is expected")


@dataclass(frozen=True, eq=False)
class AnnotatedObjects:
    """The objects of an image: boxes_xyxy [M, 4] float64, labels [M], areas [M] (NaN: not given), crowds [M] bool."""

    boxes_xyxy: npt.NDArray[np.float64]
    labels: Int64
    areas: npt.NDArray[np.float64]
    crowds: npt.NDArray[np.bool_]


class _Image(NamedTuple):
    """An image that is kept; `absent`: labels that LVIS has looked for in vain."""

    id: int | str
    file_name: str
    size: tuple[int, int] | None
    caption: str | None
    absent: tuple[int, ...] | None


class _Object(NamedTuple):
    """An annotation that is kept: the index of its image, its label or its spans in the caption."""

    image: int
    box: Box
    label: int
    area: float
    crowd: bool
    spans: tuple[tuple[int, int], ...]


_Identified = TypeVar("_Identified", bound="CocoCategory | CocoImage")


class CocoSet:
    """The images of a COCO file; records are without crowd regions, as in the official training code.

    A faulty entry raises DataError, or with `skip` is left out and counted in `faults`. Of a picture that lacks an
    annotation nobody says that it does not show its category.
    """

    def __init__(self, annotations: Path, pictures: Path, *, skip: bool = False) -> None:
        self.name = str(annotations)
        self.faults = Faults(self.name, skip=skip)
        self._pictures = pictures
        data = read_coco(annotations)
        self._labels_by_id, self._categories = self._read_categories(data)
        images = unique_entries(CocoImage, data["images"], self.name, self.faults)
        images = self.faults.unique(images, _annotated_file, self._repeated_file)
        self._images = list(self.faults.kept(images, self._image))
        rows = {image.id: row for row, image in enumerate(self._images)}
        self._doubtful: dict[int, set[int]] = {}  # labels of which a picture, by its index, may have further objects
        entries = enumerate(data["annotations"])
        found = list(self.faults.kept(entries, lambda numbered: self._kept_annotation(*numbered, rows)))
        found.sort(key=lambda one: one.image)  # keeps the file's order within an image
        # Arrays, which reading processes share; objects would be copied into each once their references are counted.
        self._objects = AnnotatedObjects(
            np.asarray([one.box for one in found], np.float64).reshape(-1, 4),
            np.asarray([one.label for one in found], np.int64),
            np.asarray([one.area for one in found], np.float64),
            np.asarray([one.crowd for one in found], np.bool_),
        )
        self._spans = [one.spans for one in found]
        rows_of_objects = np.asarray([one.image for one in found], np.int64)
        self._starts = np.searchsorted(rows_of_objects, np.arange(len(self._images) + 1))
        self.faults.log()

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the categories; a label is an index into them."""
        return self._categories.names

    @property
    def num_boxes(self) -> int:
        """The number of boxes in all pictures, crowds too."""
        return len(self._objects.labels)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> DetectionRecord | GroundingRecord:
        image, objects = self._images[index], self.objects(index)
        where = f"{self.name}: image id {image.id}"
        picture = PictureFile(self._pictures / image.file_name)
        single = ~objects.crowds
        boxes, labels = objects.boxes_xyxy[single].astype(np.float32), objects.labels[single]
        if image.caption is not None:
            spans = self._spans[self._starts[index] : self._starts[index + 1]]
            kept = (spans[row] for row in np.flatnonzero(single))
            regions = tuple(Region(one, box[None]) for one, box in zip(kept, boxes, strict=True))
            return GroundingRecord(picture, image.caption, regions, where, image.size)
        absent, doubtful = image.absent, self._doubtful.get(index, set())
        if absent is not None or doubtful:
            others = absent_labels(len(self.names), objects.labels.tolist(), doubtful)
            absent = others if absent is None else tuple(label for label in absent if label in others)
        return DetectionRecord(picture, boxes, labels, self.names, where, image.size, absent)

    def objects(self, index: int) -> AnnotatedObjects:
        """All objects of an image, crowds too, as COCO's evaluator takes them."""
        part = slice(int(self._starts[index]), int(self._starts[index + 1]))
        every = self._objects
        return AnnotatedObjects(every.boxes_xyxy[part], every.labels[part], every.areas[part], every.crowds[part])

    def _read_categories(self, data: dict[str, Any]) -> tuple[dict[int | str, int], CategoryNames]:
        """The label of each id, and the names; without Roboflow's root category."""
        entries = unique_entries(CocoCategory, data["categories"], self.name, self.faults)
        used = {_plain_id(one, "category_id") for one in data["annotations"]}
        names = CategoryNames()
        labels = {one.id: names.add(one.name) for one in entries if not _is_root(one, entries, used)}
        return labels, names

    def _repeated_file(self, entry: CocoImage, times: str) -> RecordFault:
        message = f"{self.name}: image id {shown(entry.id)}: its file_name {shown(entry.file_name)} occurs {times}"
        return RecordFault(f"{message}, so each has only some of its objects", kind="image file_name")

    def _image(self, entry: CocoImage) -> _Image:
        known = self._labels_by_id
        negative = entry.neg_category_ids
        if unknown := [one for one in negative or () if one not in known]:
            where = f"{self.name}: image id {shown(entry.id)}"
            message = f"{where}: its neg_category_ids {shown(unknown)} are not among the categories"
            raise RecordFault(message, kind="image neg_category_ids")
        absent = None if negative is None else tuple(dict.fromkeys(known[one] for one in negative))
        return _Image(entry.id, entry.file_name, entry.size, entry.caption, absent)

    def _kept_annotation(self, number: int, value: Any, rows: Mapping[int | str, int]) -> _Object:
        try:
            return self._annotation(number, value, rows)
        except RecordFault:
            row = rows.get(_plain_id(value, "image_id"))
            if row is not None:
                self._doubtful.setdefault(row, set()).update(self._labels_meant(_plain_id(value, "category_id")))
            raise

    def _labels_meant(self, category_id: Any) -> Iterable[int]:
        """The labels that an object may have, by the id that a faulty annotation gives."""
        if category_id == "":
            return range(len(self.names))
        return [self._labels_by_id[category_id]] if category_id in self._labels_by_id else []

    def _annotation(self, number: int, value: Any, rows: Mapping[int | str, int]) -> _Object:
        where = entry_name(CocoAnnotation, number, value, self.name)
        entry = checked(CocoAnnotation, value, where)
        row = rows.get(entry.image_id)
        if row is None:
            message = f"{where}: its image id {shown(entry.image_id)} is not among the images"
            raise RecordFault(message, kind="annotation image_id")
        image = self._images[row]
        x, y, width, height = entry.bbox
        box = fitted_box((x, y, x + width, y + height), image.size, where, kind="annotation bbox")
        area = float("nan") if entry.area is None else entry.area
        if image.caption is None:
            return _Object(row, box, self._label(entry, where), area, entry.iscrowd, ())
        return _Object(row, box, NO_LABEL, area, entry.iscrowd, self._checked_spans(entry, image.caption, where))

    def _checked_spans(self, entry: CocoAnnotation, caption: str, where: str) -> tuple[tuple[int, int], ...]:
        if entry.tokens_positive is None:
            message = f"{where} has no tokens_positive, the characters of its phrase in the image's caption"
            raise RecordFault(message, kind="annotation tokens_positive")
        return checked_spans(entry.tokens_positive, caption, where)

    def _label(self, entry: CocoAnnotation, where: str) -> int:
        label = None if entry.category_id is None else self._labels_by_id.get(entry.category_id)
        if label is None:
            message = f"{where}: its category id {shown(entry.category_id)} is not among the categories"
            raise RecordFault(message, kind="annotation category_id")
        return label


def read_coco(file: Path) -> dict[str, Any]:
    """Read the lists `images`, `annotations` and `categories` of a COCO file; DataError if it is none."""
    data = json_object(read_text(file), str(file))
    data.setdefault("categories", [])  # sets of captions have none
    lists = ("images", "annotations", "categories")
    if missing := [key for key in lists if not isinstance(data.get(key), list)]:
        raise DataError(f"{file} is no COCO file: its {missing} are no lists")
    return data


def unique_entries(kind: type[_Identified], entries: list[Any], name: str, faults: Faults) -> list[_Identified]:
    """Check the entries of a list; those that share an id are faulty, since nobody knows which one is referred to."""
    found = list(faults.kept(enumerate(entries), lambda one: checked(kind, one[1], entry_name(kind, *one, name))))

    def repeated(entry: _Identified, times: str) -> RecordFault:
        return RecordFault(f"{name}: {kind.kind} id {shown(entry.id)} occurs {times}", kind=f"{kind.kind} id")

    return faults.unique(found, lambda entry: entry.id, repeated)


def entry_name(kind: type[DataEntry], number: int, value: Any, name: str) -> str:
    """Name an entry of the set `name` by its id, if it has one, else by its place in its list."""
    entry_id = value.get("id") if isinstance(value, dict) else None
    named = isinstance(entry_id, int | str) and not isinstance(entry_id, bool)
    return f"{name}: {kind.kind} " + (f"id {shown(entry_id)}" if named else f"number {number + 1}")


def _is_root(entry: CocoCategory, entries: list[CocoCategory], used: set[Any]) -> bool:
    """Tell whether a category is only the parent of all others, as Roboflow writes one named after the project."""
    others = [one for one in entries if one is not entry]
    nowhere = entry.supercategory in (None, "", "none")
    return bool(others) and nowhere and entry.id not in used and all(one.supercategory == entry.name for one in others)


def _plain_id(annotation: Any, key: str) -> Any:
    """The id that an entry gives, faulty or not; "" where it gives none."""
    given = annotation.get(key) if isinstance(annotation, dict) else None
    return given if isinstance(given, int | float | str) and given == given else ""


def _annotated_file(image: CocoImage) -> str | None:
    """The file of a picture of which all objects are boxed; one with a caption may occur with several of them."""
    return posixpath.normpath(image.file_name) if image.caption is None else None
