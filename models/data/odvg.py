"""ODVG JSON lines, as Open-GroundingDino and MM-Grounding-DINO read them: detection or grounding, a picture a line.

{"filename": "a.jpg", "height": 480, "width": 640, "detection": {"instances": [{"bbox": [x0, y0, x1, y1], "label": 3}]}}
{"filename": "b.jpg", "grounding": {"caption": "a man and his dog", "regions":
    [{"bbox": [x0, y0, x1, y1], "phrase": "his dog", "tokens_positive": [[10, 17]]}]}}

A `label` is a key of the label map; a `category`, the name itself, may replace it. A region's `bbox` may be a list of
boxes; without `tokens_positive`, the span of `phrase` is found in the caption.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.data.annotation_checks import box_array, checked_box, checked_size, checked_spans, find_phrase
from models.data.images import DataError, Picture, PictureFile
from models.data.json_lines import Lines
from models.data.records import DetectionRecord, GroundingRecord, Region

LOG = logging.getLogger(__name__)


class OdvgSet:
    """The pictures of an ODVG file. Every line is checked once: a faulty one raises DataError, or `skip` omits it.

    `label_map`: a JSON file of {"0": "person", ...}; without it, the set has the categories that occur.
    """

    def __init__(self, annotations: Path, pictures: Path, *, label_map: Path | None = None, skip: bool = False) -> None:
        self.name = str(annotations)
        self._pictures, self._lines = pictures, Lines(annotations)
        self._labels = None if label_map is None else read_label_map(label_map)
        self._place = {name: place for place, name in enumerate(dict.fromkeys((self._labels or {}).values()))}
        self.names: tuple[str, ...] = ()
        keep = []
        for index in range(len(self._lines)):
            try:
                for name in categories(self._lines.entry(index), self._labels, self._lines.where(index)):
                    self._place.setdefault(name, len(self._place))
                self._record(index)
            except DataError:
                if not skip:
                    raise
                continue
            keep.append(index)
        self.skipped = len(self._lines) - len(keep)
        self._lines.select(keep)
        self.names = tuple(self._place)
        if self.skipped:
            LOG.warning("%s: %d faulty lines are left out", self.name, self.skipped)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> DetectionRecord | GroundingRecord:
        return self._record(index)

    def _record(self, index: int) -> DetectionRecord | GroundingRecord:
        entry, where = self._lines.entry(index), self._lines.where(index)
        file = entry.get("filename")
        if not isinstance(file, str) or not file:
            raise DataError(f"{where}: filename is {file!r}; a file in {self._pictures} is expected")
        return record(
            entry, PictureFile(self._pictures / file), where, Vocabulary(self.names, self._place, self._labels)
        )


class Vocabulary(NamedTuple):
    """The categories of a set, the index of each, and the label map if there is one."""

    names: tuple[str, ...]
    place: Mapping[str, int]
    labels: Mapping[str, str] | None = None


def record(
    entry: dict[str, Any], picture: Picture, where: str, vocabulary: Vocabulary
) -> DetectionRecord | GroundingRecord:
    """Convert a line to a record; DataError names what is wrong with it."""
    size = checked_size(entry, where)
    if isinstance(entry.get("grounding"), dict):
        return _grounding(entry["grounding"], picture, where, size)
    if not isinstance(entry.get("detection"), dict):
        raise DataError(f"{where} has neither 'detection' nor 'grounding'; it has {sorted(entry)}")
    names = categories(entry, vocabulary.labels, where)
    if unknown := sorted(set(names) - vocabulary.place.keys()):
        raise DataError(f"{where}: {unknown} are not among the set's categories")
    boxes = [checked_box(item.get("bbox"), where) for item in _items(entry["detection"], "instances", where)]
    chosen = np.asarray([vocabulary.place[name] for name in names], np.int64)
    return DetectionRecord(picture, box_array(boxes), chosen, vocabulary.names, where, size)


def categories(entry: dict[str, Any], labels: Mapping[str, str] | None, where: str) -> list[str]:
    """List the category name of each instance of a detection line."""
    if not isinstance(entry.get("detection"), dict):
        return []
    names = []
    for item in _items(entry["detection"], "instances", where):
        label, name = item.get("label"), item.get("category")
        if labels is not None and label is not None:
            if str(label) not in labels:
                raise DataError(f"{where}: label {label!r} is not in the label map")
            name = labels[str(label)]
        if not isinstance(name, str) or not name.strip():
            raise DataError(
                f"{where}: an instance has label {label!r} and category {name!r}; a label map or a name is needed"
            )
        names.append(name)
    return names


def read_label_map(file: Path) -> dict[str, str]:
    """Read a label map; DataError if the file is none."""
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    if not isinstance(data, dict) or not all(isinstance(name, str) and name.strip() for name in data.values()):
        raise DataError(f'{file} is no label map: {{"0": "person", ...}} is expected')
    return {str(key): name for key, name in data.items()}


def _grounding(data: dict[str, Any], picture: Picture, where: str, size: tuple[int, int] | None) -> GroundingRecord:
    caption = data.get("caption")
    if not isinstance(caption, str) or not caption.strip():
        raise DataError(f"{where}: the caption is {caption!r}")
    regions = []
    for item in _items(data, "regions", where):
        found = item.get("bbox")
        boxes = found if isinstance(found, list) and found and isinstance(found[0], list) else [found]
        spans = (
            checked_spans(item["tokens_positive"], caption, where)
            if "tokens_positive" in item
            else find_phrase(str(item.get("phrase", "")), caption, where)
        )
        regions.append(Region(spans, box_array([checked_box(box, where) for box in boxes])))
    return GroundingRecord(picture, caption, tuple(regions), where, size)


def _items(data: dict[str, Any], key: str, where: str) -> list[dict[str, Any]]:
    items = data.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise DataError(f"{where}: {key} is {items!r}; a list of objects is expected")
    return items
