"""COCO JSON: `images`, `annotations` and `categories`, with boxes x, y, width, height.

Also the variant in which an image has a `caption` and an annotation `tokens_positive`, the characters of the phrase it
is named by (MDETR's and GLIP's mixed sets); and LVIS's `neg_category_ids` and `not_exhaustive_category_ids`.
"""

import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.data.annotation_checks import box_array, checked_box, checked_size, checked_spans
from models.data.images import DataError, PictureFile
from models.data.records import DetectionRecord, GroundingRecord, Region

LOG = logging.getLogger(__name__)


class _Annotation(NamedTuple):
    """A valid annotation: the index of its image, its box x0, y0, x1, y1, the index of its category or its spans."""

    image: int
    box: tuple[float, float, float, float]
    label: int
    spans: tuple[tuple[int, int], ...] = ()


class CocoSet:
    """The images of a COCO file, without crowd regions, as in the official training code.

    A faulty annotation raises DataError, or with `skip` is left out and counted in `skipped`.
    """

    def __init__(self, annotations: Path, pictures: Path, *, skip: bool = False) -> None:
        self.name = str(annotations)
        self.skipped = 0
        self._pictures, self._skip = pictures, skip
        data = _read(annotations)
        self._place, self.names = self._categories(data)
        self._images: list[dict[str, Any]] = list(self._kept(data["images"], self._image))
        rows: dict[Any, int] = {image["id"]: row for row, image in enumerate(self._images)}
        found = list(self._kept(data["annotations"], lambda entry: self._annotation(entry, rows)))
        found.sort(key=lambda one: one.image)  # keeps the file's order within an image
        # Arrays, which reading processes share; objects would be copied into each once their references are counted.
        self._boxes = box_array([one.box for one in found])
        self._labels = np.asarray([one.label for one in found], np.int64)
        self._spans = [one.spans for one in found if one.spans]
        images = np.asarray([one.image for one in found], np.int64)
        self._starts = np.searchsorted(images, np.arange(len(self._images) + 1))
        self._first_spans = np.cumsum([0, *(bool(one.spans) for one in found)])
        if self.skipped:
            LOG.warning("%s: %d faulty entries are left out", self.name, self.skipped)

    @property
    def image_ids(self) -> list[Any]:
        """The id of each record's image in the file."""
        return [image["id"] for image in self._images]

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> DetectionRecord | GroundingRecord:
        image, start, end = self._images[index], int(self._starts[index]), int(self._starts[index + 1])
        where = f"{self.name}: image id {image['id']}"
        picture = PictureFile(self._pictures / image["file_name"])
        size = checked_size(image, where)
        boxes, labels = self._boxes[start:end], self._labels[start:end]
        if "caption" in image:
            first = int(self._first_spans[start])
            spans = self._spans[first : first + len(boxes)]
            regions = tuple(Region(one, box[None]) for one, box in zip(spans, boxes, strict=True))
            return GroundingRecord(picture, image["caption"], regions, where, size)
        return DetectionRecord(picture, boxes, labels, self.names, where, size, self._absent(image, labels))

    def _absent(self, image: dict[str, Any], labels: np.ndarray) -> tuple[int, ...] | None:
        """The categories known to be absent; LVIS annotates some only, so that others may be present without a box."""
        if "neg_category_ids" not in image:
            return None
        present = set(labels.tolist())
        return tuple(self._place[name] for name in image["neg_category_ids"] if self._place[name] not in present)

    def _kept(self, entries: list[Any], check: Any) -> Any:
        """Yield what `check` returns for each entry; None leaves one out without counting it."""
        for entry in entries:
            try:
                passed = check(entry)
            except DataError:
                if not self._skip:
                    raise
                self.skipped += 1
                continue
            if passed is not None:
                yield passed

    def _categories(self, data: dict[str, Any]) -> tuple[dict[Any, int], tuple[str, ...]]:
        place: dict[Any, int] = {}
        names: list[str] = []
        for entry in data["categories"]:
            if not isinstance(entry, dict) or "id" not in entry or not str(entry.get("name", "")).strip():
                raise DataError(f"{self.name}: category {entry!r} has no id or no name")
            if entry["id"] in place:
                raise DataError(f"{self.name}: category id {entry['id']} occurs twice")
            place[entry["id"]] = len(names)
            names.append(str(entry["name"]))
        return place, tuple(names)

    def _image(self, entry: Any) -> dict[str, Any]:
        where = f"{self.name}: image id {entry.get('id') if isinstance(entry, dict) else entry!r}"
        if not isinstance(entry, dict) or "id" not in entry or not isinstance(entry.get("file_name"), str):
            raise DataError(f"{where} has no id or no file_name")
        checked_size(entry, where)
        if unknown := [name for name in entry.get("neg_category_ids", ()) if name not in self._place]:
            raise DataError(f"{where}: its neg_category_ids {unknown} are not among the categories")
        wanted = ("id", "file_name", "height", "width", "caption", "neg_category_ids")
        return {key: entry[key] for key in wanted if key in entry}

    def _annotation(self, entry: Any, rows: dict[Any, int]) -> "_Annotation | None":
        where = f"{self.name}: annotation id {entry.get('id') if isinstance(entry, dict) else entry!r}"
        if not isinstance(entry, dict) or "image_id" not in entry:
            raise DataError(f"{where} has no image_id")
        if entry["image_id"] not in rows:
            raise DataError(f"{where}: its image id {entry['image_id']!r} is not among the images")
        box = checked_box(entry.get("bbox"), where)
        if entry.get("iscrowd"):
            return None
        image = rows[entry["image_id"]]
        if "caption" in self._images[image]:
            spans = checked_spans(entry.get("tokens_positive"), self._images[image]["caption"], where)
            return _Annotation(image, _xyxy(box), -1, spans)
        if entry.get("category_id") not in self._place:
            raise DataError(f"{where}: its category id {entry.get('category_id')!r} is not among the categories")
        return _Annotation(image, _xyxy(box), self._place[entry["category_id"]])


def _read(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(data, dict) or key not in data]
    if isinstance(data, dict) and missing == ["categories"]:
        return {**data, "categories": []}  # sets of captions have none
    if missing:
        raise DataError(f"{file} is no COCO file: it has no {missing}")
    return data


def _xyxy(box: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    x, y, width, height = box
    return x, y, x + width, y + height
