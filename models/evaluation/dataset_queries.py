"""Evaluation sets from data-set files: the formats of training, and a folder of images for each class."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.data.captions import CaptionFolder, CaptionLines, open_captions
from models.data.coco import CocoSet
from models.data.coco_evaluator import GroundTruthBox
from models.data.images import SUFFIXES, DataError, PictureFile
from models.data.json_lines import json_object
from models.data.odvg import OdvgSet, read_label_map
from models.data.records import DetectionRecord, GroundingRecord
from models.evaluation.metrics import EvaluationSet, Query, QuerySet
from models.evaluation.synthetic_queries import ANNOTATIONS, open_generated

FORMATS = ("coco", "odvg", "captions", "classes", "generated")
MAX_ABSENT = 10  # absent labels of a query
BY_SUFFIX = {".json": "coco", ".jsonl": "odvg", ".tsv": "captions", ".csv": "captions"}


def detect_format(path: Path) -> str:
    """The format of a set, by its suffix or by the contents of its folder."""
    if not path.is_dir():
        if path.suffix.lower() not in BY_SUFFIX:
            raise DataError(f"{path} is neither a folder nor a file in {sorted(BY_SUFFIX)}")
        return BY_SUFFIX[path.suffix.lower()]
    if (path / ANNOTATIONS).is_file():
        return "generated"
    return "captions" if next(path.rglob("*.txt"), None) else "classes"


def open_evaluation_set(
    path: Path,
    set_format: str,
    *,
    images: Path | None = None,
    label_map: Path | None = None,
    limit: int | None = None,
    skip: bool = False,
) -> EvaluationSet:
    """Open the set at `path`, or its first `limit` images; DataError names the faulty record unless `skip`."""
    if set_format == "generated":
        return open_generated(path, limit=limit)
    if set_format == "classes":
        return _class_folders(path, label_map, limit)
    if set_format == "captions":
        return _captions(open_captions(path, images, skip=skip), limit)
    folder = path.parent if images is None else images
    if set_format == "odvg":
        return _boxes_and_phrases(OdvgSet(path, folder, label_map=label_map, skip=skip), None, limit)
    records = CocoSet(path, folder, skip=skip)
    return _boxes_and_phrases(records, _coco_ground_truth(path, records), limit)


def _boxes_and_phrases(
    records: OdvgSet | CocoSet, ground_truth: Mapping[int, list[GroundTruthBox]] | None, limit: int | None
) -> EvaluationSet:
    """Queries by label, by phrase, or both. `ground_truth`: boxes by record, where they have areas and crowds."""
    kinds: dict[type, list[int]] = defaultdict(list)
    for index in range(_length(records, limit)):
        kinds[type(records[index])].append(index)

    def detection() -> Iterator[Query]:
        for index in kinds[DetectionRecord]:
            record = records[index]
            assert isinstance(record, DetectionRecord)
            labels = _annotated_labels(record)
            boxes = _record_boxes(record) if ground_truth is None else ground_truth.get(index, [])
            texts = tuple(record.names[label] for label in labels)
            yield Query(record.picture, record.where, texts, record.size, (labels, boxes))

    def absent() -> Iterator[Query]:
        for index in kinds[DetectionRecord]:
            record = records[index]
            assert isinstance(record, DetectionRecord)
            if texts := _absent_labels(record, index):
                yield Query(record.picture, record.where, texts, record.size)

    def grounding() -> Iterator[Query]:
        for index in kinds[GroundingRecord]:
            record = records[index]
            assert isinstance(record, GroundingRecord)
            if record.regions:
                yield _phrases(record)

    queries = {
        "detection": QuerySet(len(kinds[DetectionRecord]), detection),
        "absent": QuerySet(len(kinds[DetectionRecord]), absent),
        "grounding": QuerySet(len(kinds[GroundingRecord]), grounding),
    }
    kept = {name: query_set for name, query_set in queries.items() if query_set.count}
    return EvaluationSet(records.name, kept, records.names, records.skipped)


def _length(records: Any, limit: int | None) -> int:
    if not len(records):
        raise DataError(f"{records.name} has no record")
    return len(records) if limit is None else min(limit, len(records))


def _record_boxes(record: DetectionRecord) -> list[GroundTruthBox]:
    return [
        GroundTruthBox(0, int(label), box.tolist()) for label, box in zip(record.labels, record.boxes_xyxy, strict=True)
    ]


def _annotated_labels(record: DetectionRecord) -> tuple[int, ...]:
    """Indices of all labels, or where the set lists those annotated in this image, as LVIS does, of those."""
    if record.absent is None:
        return tuple(range(len(record.names)))
    return tuple(sorted({*record.labels.tolist(), *record.absent}))


def _absent_labels(record: DetectionRecord, index: int) -> tuple[str, ...]:
    """Some labels that are absent from the image, sampled with its index as the seed."""
    known = range(len(record.names)) if record.absent is None else record.absent
    others = sorted(set(known) - set(record.labels.tolist()))
    sampled = random.Random(index).sample(others, min(MAX_ABSENT, len(others)))
    return tuple(record.names[label] for label in sampled)


def _phrases(record: GroundingRecord) -> Query:
    """The phrases of a caption, each with all boxes of its characters."""
    boxes: dict[tuple[tuple[int, int], ...], list[Any]] = defaultdict(list)
    for region in record.regions:
        boxes[region.spans].append(region.boxes_xyxy)
    texts = tuple(" ".join(record.caption[start:end] for start, end in spans) for spans in boxes)
    return Query(record.picture, record.where, texts, record.size, tuple(map(np.concatenate, boxes.values())))


def _coco_ground_truth(file: Path, records: CocoSet) -> dict[int, list[GroundTruthBox]]:
    """Boxes by record as COCO's evaluator expects them: with the area of the segmentation, and with crowds."""
    data = json_object(file.read_bytes(), str(file))
    label_of = {entry["id"]: index for index, entry in enumerate(data.get("categories", ()))}
    row_of = {image: row for row, image in enumerate(records.image_ids)}
    boxes: dict[int, list[GroundTruthBox]] = defaultdict(list)
    for entry in data["annotations"]:
        box, label, row = entry.get("bbox"), label_of.get(entry.get("category_id")), row_of.get(entry.get("image_id"))
        if row is None or label is None or not isinstance(box, list) or len(box) != 4:
            continue  # refused by the reader, or skipped on request
        x, y, width, height = box
        crowd = bool(entry.get("iscrowd"))
        boxes[row].append(GroundTruthBox(0, label, (x, y, x + width, y + height), entry.get("area"), crowd))
    return boxes


def _captions(records: CaptionFolder | CaptionLines, limit: int | None) -> EvaluationSet:
    count = _length(records, limit)

    def retrieval() -> Iterator[Query]:
        for index in range(count):
            record = records[index]
            yield Query(record.picture, record.where, record.captions)

    return EvaluationSet(records.name, {"retrieval": QuerySet(count, retrieval)}, skipped=records.skipped)


def _class_folders(folder: Path, label_map: Path | None, limit: int | None) -> EvaluationSet:
    """A folder with a folder of images for each class; its label is its name, or the label map's entry for that."""
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder of classes")
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    mapped = read_label_map(label_map) if label_map else {}
    if missing := [path.name for path in classes if label_map and path.name not in mapped]:
        raise DataError(f"{label_map} has no {missing}")
    labels = tuple(mapped.get(path.name, path.name.replace("_", " ")) for path in classes)
    files = [
        (label, file)
        for label, path in enumerate(classes)
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in SUFFIXES
    ]
    if not files:
        raise DataError(f"{folder} has no images: one folder of images for each class is expected")
    files = files[:limit]

    def classification() -> Iterator[Query]:
        for label, file in files:
            yield Query(PictureFile(file), str(file), labels, None, label)

    return EvaluationSet(str(folder), {"classification": QuerySet(len(files), classification)}, labels)
