"""Evaluation sets from data-set files: the formats of training, and a folder of images for each class."""

import random
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from models.data.captions import CaptionFolder, CaptionLines, open_captions
from models.data.class_folders import ClassFolders
from models.data.coco import CocoSet
from models.data.coco_evaluator import GroundTruthBox
from models.data.entries import box_array, fitted_box
from models.data.faults import RecordFault
from models.data.folders import pictures_in
from models.data.images import BrokenPicture, DataError
from models.data.odvg import OdvgSet
from models.data.records import DetectionRecord, GroundingRecord
from models.data.yolo import YoloSet
from models.evaluation.metrics import EvaluationSet, Query, QuerySet
from models.evaluation.synthetic_queries import ANNOTATIONS, open_generated

MAX_ABSENT = 10  # absent labels of a query
BY_SUFFIX = {".yaml": "yolo", ".yml": "yolo", ".json": "coco", ".jsonl": "odvg", ".tsv": "captions", ".csv": "captions"}
Size = tuple[int, int] | None


def detect_format(path: Path) -> str:
    """The format of a set, by its suffix or by the contents of its folder."""
    if not path.is_dir():
        if path.suffix.lower() not in BY_SUFFIX:
            raise DataError(f"{path} is neither a folder nor a file in {sorted(BY_SUFFIX)}")
        return BY_SUFFIX[path.suffix.lower()]
    if (path / ANNOTATIONS).is_file():
        return "generated"
    captioned = any(picture.with_suffix(".txt").is_file() for picture in pictures_in(path))
    return "captions" if captioned else "classes"


def open_evaluation_set(
    path: Path,
    set_format: str,
    *,
    images: Path | None = None,
    label_map: Path | None = None,
    split: str = "val",
    limit: int | None = None,
    skip: bool = False,
) -> EvaluationSet:
    """Open the set at `path`, or its first `limit` images; DataError names the faulty record unless `skip`.

    split: of a YOLO set.
    """
    if set_format == "generated":
        return open_generated(path, limit=limit, skip=skip)
    if set_format == "classes":
        return _classification(ClassFolders(path, label_map=label_map, skip=skip), limit)
    if set_format == "yolo":
        return _boxes_and_phrases(YoloSet(path, split, skip=skip), limit)
    if set_format == "captions":
        return _captions(open_captions(path, images, skip=skip), limit)
    folder = path.parent if images is None else images
    if set_format == "odvg":
        return _boxes_and_phrases(OdvgSet(path, folder, label_map=label_map, skip=skip), limit)
    return _boxes_and_phrases(CocoSet(path, folder, skip=skip), limit)


def _boxes_and_phrases(records: OdvgSet | CocoSet | YoloSet, limit: int | None) -> EvaluationSet:
    """Queries by label, by phrase, or both."""
    if isinstance(records, CocoSet | YoloSet) and len(records) and not records.num_boxes:
        raise DataError(f"{records.name} has no box in any picture: there is nothing to find")
    kinds: dict[type, list[int]] = defaultdict(list)
    for index in range(_length(records, limit)):
        kinds[type(records[index])].append(index)

    def drawn(kind: type, query: Callable[[OdvgSet | CocoSet | YoloSet, int], Query | None]) -> QuerySet:
        indices = kinds[kind]
        return QuerySet(
            len(indices), lambda: (made for index in indices if (made := query(records, index)) is not None)
        )

    queries = {
        "detection": drawn(DetectionRecord, _detection),
        "absent": drawn(DetectionRecord, _absent),
        "grounding": drawn(GroundingRecord, _grounding),
    }
    kept = {name: query_set for name, query_set in queries.items() if query_set.count}
    return EvaluationSet(records.name, kept, records.names, records.faults.counts)


def _length(records: Any, limit: int | None) -> int:
    if not len(records):
        raise records.faults.no_record()
    return len(records) if limit is None else min(limit, len(records))


def _detection(records: OdvgSet | CocoSet | YoloSet, index: int) -> Query | None:
    record, objects = _detection_record(records, index)
    labels = _annotated_labels(record)
    texts = tuple(record.names[label] for label in labels)
    return _query(record, texts, lambda size: (labels, _fitted(objects, size, record.where))) if texts else None


def _absent(records: OdvgSet | CocoSet | YoloSet, index: int) -> Query | None:
    record, objects = _detection_record(records, index)
    texts = _absent_labels(record, {box.label for box in objects}, seed=index)
    return _query(record, texts, lambda size: _fitted(objects, size, record.where)) if texts else None


def _grounding(records: OdvgSet | CocoSet | YoloSet, index: int) -> Query | None:
    record = records[index]
    assert isinstance(record, GroundingRecord)
    phrases = _phrases(record)
    texts = tuple(text for text, _ in phrases)
    return _query(record, texts, lambda size: _fitted_phrases(phrases, size, record.where)) if texts else None


def _detection_record(records: OdvgSet | CocoSet | YoloSet, index: int) -> tuple[DetectionRecord, list[GroundTruthBox]]:
    """A record and its objects as COCO's evaluator expects them: with the area of the segmentation, and with crowds."""
    record = records[index]
    assert isinstance(record, DetectionRecord)
    if not isinstance(records, CocoSet):
        pairs = zip(record.labels.tolist(), record.boxes_xyxy.tolist(), strict=True)
        return record, [GroundTruthBox(0, label, box) for label, box in pairs]
    objects = records.objects(index)
    columns = (objects.labels, objects.boxes_xyxy, objects.areas, objects.crowds)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return record, [
        GroundTruthBox(0, label, box, None if np.isnan(area) else area, crowd) for label, box, area, crowd in rows
    ]


def _query(record: DetectionRecord | GroundingRecord, texts: tuple[str, ...], target: Callable[[Size], Any]) -> Query:
    """A query about a record, whose boxes are clipped to its picture: to its own size, where the set gives none."""
    size, made = record.size, None
    fault: DataError | None = None
    if size is None:
        try:
            image = record.picture.open()
            size = (image.height, image.width)
        except BrokenPicture as error:
            fault = error
    try:
        made = target(size)
    except RecordFault as error:
        fault = error
    return Query(record.picture, record.where, texts, record.size, made, fault)


def _fitted(objects: list[GroundTruthBox], size: Size, where: str) -> list[GroundTruthBox]:
    return [GroundTruthBox(0, one.label, _fit(one.box, size, where), one.area, one.crowd) for one in objects]


def _fit(box: Any, size: Size, where: str) -> tuple[float, float, float, float]:
    return fitted_box((box[0], box[1], box[2], box[3]), size, where, kind="bbox outside the picture")


def _annotated_labels(record: DetectionRecord) -> tuple[int, ...]:
    """Indices of all labels, or where not all are annotated in this image, as in LVIS, of those that are."""
    if record.absent is None:
        return tuple(range(len(record.names)))
    return tuple(sorted({*record.labels.tolist(), *record.absent}))


def _absent_labels(record: DetectionRecord, present: set[int], *, seed: int) -> tuple[str, ...]:
    """Some labels that are absent from the image."""
    known = range(len(record.names)) if record.absent is None else record.absent
    others = sorted(set(known) - present)
    sampled = random.Random(seed).sample(others, min(MAX_ABSENT, len(others)))
    return tuple(record.names[label] for label in sampled)


def _phrases(record: GroundingRecord) -> list[tuple[str, list[Any]]]:
    """The phrases of a caption, each with all boxes of its characters."""
    boxes: dict[tuple[tuple[int, int], ...], list[Any]] = defaultdict(list)
    for region in record.regions:
        boxes[region.spans] += region.boxes_xyxy.tolist()
    return [(" ".join(record.caption[start:end] for start, end in spans), some) for spans, some in boxes.items()]


def _fitted_phrases(phrases: list[tuple[str, list[Any]]], size: Size, where: str) -> tuple[Any, ...]:
    return tuple(box_array([_fit(box, size, where) for box in boxes]) for _, boxes in phrases)


def _captions(records: CaptionFolder | CaptionLines, limit: int | None) -> EvaluationSet:
    count = _length(records, limit)

    def retrieval() -> Iterator[Query]:
        for index in range(count):
            record = records[index]
            yield Query(record.picture, record.where, record.captions)

    return EvaluationSet(records.name, {"retrieval": QuerySet(count, retrieval)}, faults=records.faults.counts)


def _classification(records: ClassFolders, limit: int | None) -> EvaluationSet:
    count = _length(records, limit)

    def classification() -> Iterator[Query]:
        for index in range(count):
            record = records[index]
            yield Query(record.picture, record.where, record.names, None, record.label)

    queries = {"classification": QuerySet(count, classification)}
    return EvaluationSet(records.name, queries, records.names, records.faults.counts)
