"""From a data set, in any format that is trained on and some more, to the questions it can answer."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from models.data.captions import open_captions
from models.data.coco import CocoSet
from models.data.coco_evaluator import Box
from models.data.images import SUFFIXES, DataError, PictureFile
from models.data.json_lines import json_object
from models.data.odvg import OdvgSet, read_label_map
from models.data.records import CaptionRecord, DetectionRecord, GroundingRecord, Record, RecordSet
from models.evaluation.metrics import Question

GENERATED = "annotations.json"
FORMATS = ("coco", "odvg", "captions", "classes", "generated")
ABSENT = 10  # categories at most that are asked for at once although they are absent
BY_SUFFIX = {".json": "coco", ".jsonl": "odvg", ".tsv": "captions", ".csv": "captions"}


@dataclass(frozen=True)
class Asking:
    """How many questions there are of a kind, and what draws them anew."""

    count: int
    questions: Callable[[], Iterator[Question]]


@dataclass(frozen=True)
class EvaluationSet:
    """The questions by measure; `names`: the categories, or classes; `skipped`: faulty entries left out."""

    name: str
    askings: Mapping[str, Asking]
    names: tuple[str, ...] = ()
    skipped: int = 0


def format_of(path: Path) -> str:
    """The format that a path looks like: by its suffix, or by what lies in the folder."""
    if not path.is_dir():
        if path.suffix.lower() not in BY_SUFFIX:
            raise DataError(f"{path} is neither a folder nor a file in {sorted(BY_SUFFIX)}")
        return BY_SUFFIX[path.suffix.lower()]
    if (path / GENERATED).is_file():
        return "generated"
    return "captions" if next(path.rglob("*.txt"), None) else "classes"


def open_set(
    path: Path,
    kind: str,
    *,
    pictures: Path | None = None,
    label_map: Path | None = None,
    limit: int | None = None,
    skip: bool = False,
) -> EvaluationSet:
    """The set at `path`; DataError names what is wrong with it. `limit`: of the first pictures only."""
    if kind == "generated":
        from models.evaluation.synthetic_sets import open_generated

        return open_generated(path, limit=limit)
    if kind == "classes":
        return _classes(path, label_map, limit)
    if kind == "captions":
        return _of_captions(open_captions(path, pictures, skip=skip), limit)
    folder = path.parent if pictures is None else pictures
    if kind == "odvg":
        return _boxed(OdvgSet(path, folder, label_map=label_map, skip=skip), None, limit)
    records = CocoSet(path, folder, skip=skip)
    return _boxed(records, _outlines(path, records), limit)


def detection_questions(asked: Sequence[tuple[DetectionRecord, tuple[int, ...], Sequence[Box]]]) -> Iterator[Question]:
    """A record, the places of the names to ask for, and its boxes."""
    for record, places, boxes in asked:
        texts = tuple(record.names[place] for place in places)
        yield Question(record.picture, record.where, texts, record.size, (places, boxes))


def _boxed(records: RecordSet, outlines: Mapping[int, list[Box]] | None, limit: int | None) -> EvaluationSet:
    """Records of boxes: by category, of phrases, or both. `outlines`: the boxes by record, with areas and crowds."""
    kinds: dict[type, list[int]] = defaultdict(list)
    for index in range(_counted(records, limit)):
        kinds[type(records[index])].append(index)
    detected, grounded = kinds[DetectionRecord], kinds[GroundingRecord]
    names: tuple[str, ...] = getattr(records, "names", ())

    def detection() -> Iterator[Question]:
        for index in detected:
            record = records[index]
            assert isinstance(record, DetectionRecord)
            boxes = _boxes(record) if outlines is None else outlines.get(index, [])
            yield from detection_questions([(record, _places(record), boxes)])

    def absent() -> Iterator[Question]:
        for index in detected:
            record = records[index]
            assert isinstance(record, DetectionRecord)
            if texts := _absent(record, index):
                yield Question(record.picture, record.where, texts, record.size)

    def grounding() -> Iterator[Question]:
        for index in grounded:
            record = records[index]
            assert isinstance(record, GroundingRecord)
            if record.regions:
                yield _phrases(record)

    askings = {
        "detection": Asking(len(detected), detection),
        "absent": Asking(len(detected), absent),
        "grounding": Asking(len(grounded), grounding),
    }
    kept = {name: one for name, one in askings.items() if one.count}
    return EvaluationSet(records.name, kept, names, getattr(records, "skipped", 0))


def _counted(records: RecordSet, limit: int | None) -> int:
    if not len(records):
        raise DataError(f"{records.name} has no record")
    return len(records) if limit is None else min(limit, len(records))


def _boxes(record: DetectionRecord) -> list[Box]:
    return [Box(0, int(label), box.tolist()) for label, box in zip(record.labels, record.boxes_xyxy, strict=True)]


def _places(record: DetectionRecord) -> tuple[int, ...]:
    """All categories; where the set tells which were looked for in this picture, as LVIS does, those alone."""
    if record.absent is None:
        return tuple(range(len(record.names)))
    return tuple(sorted({*record.labels.tolist(), *record.absent}))


def _absent(record: DetectionRecord, index: int) -> tuple[str, ...]:
    """Some categories that are not in the picture, chosen by its number alone."""
    known = range(len(record.names)) if record.absent is None else record.absent
    others = sorted(set(known) - set(record.labels.tolist()))
    return tuple(record.names[place] for place in random.Random(index).sample(others, min(ABSENT, len(others))))


def _phrases(record: GroundingRecord) -> Question:
    """A caption's phrases, each with all boxes that stand by its characters."""
    boxes: dict[tuple[tuple[int, int], ...], list[Any]] = defaultdict(list)
    for region in record.regions:
        boxes[region.spans].append(region.boxes_xyxy)
    texts = tuple(" ".join(record.caption[start:end] for start, end in spans) for spans in boxes)
    truth = tuple(np.concatenate(some) for some in boxes.values())
    return Question(record.picture, record.where, texts, record.size, truth)


def _outlines(file: Path, records: CocoSet) -> dict[int, list[Box]]:
    """The annotations by record as COCO's evaluator wants them: with the area of the outline, and with the crowds."""
    data = json_object(file.read_bytes(), str(file))
    place = {entry["id"]: number for number, entry in enumerate(data.get("categories", ()))}
    row = {name: number for number, name in enumerate(records.image_ids)}
    found: dict[int, list[Box]] = defaultdict(list)
    for entry in data["annotations"]:
        box, label = entry.get("bbox"), place.get(entry.get("category_id"))
        if entry.get("image_id") not in row or label is None or not isinstance(box, list) or len(box) != 4:
            continue  # refused by the reader, or left out on request
        x, y, width, height = box
        crowd = bool(entry.get("iscrowd"))
        found[row[entry["image_id"]]].append(Box(0, label, (x, y, x + width, y + height), entry.get("area"), crowd))
    return found


def _of_captions(records: Any, limit: int | None) -> EvaluationSet:
    count = _counted(records, limit)

    def retrieval() -> Iterator[Question]:
        for index in range(count):
            record: Record = records[index]
            assert isinstance(record, CaptionRecord)
            yield Question(record.picture, record.where, record.captions)

    return EvaluationSet(records.name, {"retrieval": Asking(count, retrieval)}, skipped=records.skipped)


def _classes(folder: Path, label_map: Path | None, limit: int | None) -> EvaluationSet:
    """A folder of a folder for each class, whose name, or what the label map makes of it, is the label."""
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder of classes")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    labels = read_label_map(label_map) if label_map else {}
    if missing := [path.name for path in classes if label_map and path.name not in labels]:
        raise DataError(f"{label_map} has no {missing}")
    names = tuple(labels.get(path.name, path.name.replace("_", " ")) for path in classes)
    files = [
        (place, file)
        for place, path in enumerate(classes)
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise DataError(f"{folder} has no folder of pictures: one for each class is expected")
    files = files[:limit]

    def classification() -> Iterator[Question]:
        for place, file in files:
            yield Question(PictureFile(file), str(file), names, None, place)

    return EvaluationSet(str(folder), {"classification": Asking(len(files), classification)}, names)
