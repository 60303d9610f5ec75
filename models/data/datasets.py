"""The sets of a recipe: `[[data.sets]]` tables, each a format, where its files are, and its weight in the mixture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.data.captions import open_captions
from models.data.coco import CocoSet
from models.data.images import DataError
from models.data.odvg import OdvgSet, read_label_map
from models.data.records import RecordSet
from models.data.shards import ShardStream, shard_files

FAULTY = ("refuse", "skip")
# The entries of each format beside `format`, `weight` and `faulty`; optional ones say so.
FORMATS: dict[str, dict[str, str]] = {
    "coco": {"annotations": "file", "pictures": "folder"},
    "odvg": {"annotations": "file", "pictures": "folder", "label_map": "optional file"},
    "captions": {
        "path": "file or folder",
        "pictures": "optional folder",
        "picture_column": "optional name",
        "caption_column": "optional name",
    },
    "shards": {"shards": "pattern or patterns", "label_map": "optional file", "buffer": "optional number"},
}


@dataclass(frozen=True)
class WeightedSet:
    """A set and how often it is drawn from, compared with the others; `skip`: faulty pictures are left out."""

    records: RecordSet | ShardStream
    weight: float
    skip: bool


def open_sets(tables: list[dict[str, Any]], folder: Path) -> tuple[WeightedSet, ...]:
    """The sets of a recipe, whose paths start at `folder`; without a weight, a set counts by its number of records."""
    if not tables:
        raise DataError("the recipe lists no set: [[data.sets]] is expected")
    return tuple(open_set(table, folder) for table in tables)


def open_set(table: dict[str, Any], folder: Path) -> WeightedSet:
    """One set; DataError names the entry that is wrong, or the file and record."""
    table = dict(table)
    kind, faulty, weight = table.pop("format", None), table.pop("faulty", "refuse"), table.pop("weight", None)
    if kind not in FORMATS:
        raise DataError(f"a set's format is {kind!r}; accepted are {sorted(FORMATS)}")
    if faulty not in FAULTY:
        raise DataError(f"faulty is {faulty!r}; accepted are {list(FAULTY)}")
    known = FORMATS[kind]
    if unknown := sorted(table.keys() - known.keys()):
        raise DataError(f"a {kind} set has no {unknown}; it has {sorted(known)}")
    needed = [key for key, value in known.items() if not value.startswith("optional")]
    if missing := [key for key in needed if key not in table]:
        raise DataError(f"a {kind} set needs {missing}")
    records = _open(kind, table, folder, faulty == "skip")
    if weight is None:
        if isinstance(records, ShardStream):
            raise DataError(f"{records.name}: a set of shards needs a weight, since its samples are not counted")
        weight = float(len(records))
    if not isinstance(weight, int | float) or not weight > 0:
        raise DataError(f"{records.name}: the weight is {weight!r}; a positive number is expected")
    return WeightedSet(records, float(weight), faulty == "skip")


def _open(kind: str, table: dict[str, Any], folder: Path, skip: bool) -> Any:
    paths = {key: folder / table[key] for key in ("annotations", "pictures", "label_map", "path") if key in table}
    if kind == "shards":
        labels = read_label_map(paths["label_map"]) if "label_map" in paths else None
        return ShardStream(shard_files(table["shards"], folder), buffer=table.get("buffer", 1000), labels=labels)
    if kind == "coco":
        records: RecordSet = CocoSet(paths["annotations"], paths["pictures"], skip=skip)
    elif kind == "odvg":
        records = OdvgSet(paths["annotations"], paths["pictures"], label_map=paths.get("label_map"), skip=skip)
    else:
        columns = {key: table[key] for key in ("picture_column", "caption_column") if key in table}
        records = open_captions(paths["path"], paths.get("pictures"), skip=skip, **columns)
    if not len(records):
        raise DataError(f"{records.name} has no record")
    if not skip:
        records[0].picture.open()  # a wrong folder shows now, not after the first epoch's start
    return records
