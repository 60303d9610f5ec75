"""The sets of a recipe: typed `[[data.sets]]` tables, one class a format, and their opened, weighted sets."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt

from models.data.captions import open_captions
from models.data.class_folders import ClassFolders
from models.data.coco import CocoSet
from models.data.grounding_prompts import PromptConfig
from models.data.images import DataError
from models.data.odvg import OdvgSet, read_label_map
from models.data.records import RecordGenerator, RecordSet
from models.data.shards import ShardStream, shard_files
from models.data.yolo import YoloSet
from server.contract.manifest import Preprocessing

DEFAULT_PROMPTS = PromptConfig()
OpenedSet = RecordSet | ShardStream | RecordGenerator


@dataclass(frozen=True)
class OpenContext:
    """The parts of a recipe that a set may depend on; relative paths start at `folder`.

    held_out: open the set to validate with. Generated pictures are drawn at the size that the preprocessing gives, with
    prompts as the recipe has them; `embeddings`: unit-length vectors by text, to know similar names by.
    """

    folder: Path
    preprocessing: Preprocessing
    prompts: PromptConfig = DEFAULT_PROMPTS
    embeddings: Any = None
    held_out: bool = False


class SetConfig(BaseModel, ABC):
    """The entries of every format.

    `weight`: how often the set is drawn from, compared with the others (default: its number of records); `faulty`:
    "skip" leaves out pictures and records that cannot be used, "refuse" stops the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: PositiveFloat | None = None
    faulty: Literal["refuse", "skip"] = "refuse"

    @property
    def skip(self) -> bool:
        return self.faulty == "skip"

    @abstractmethod
    def open(self, context: OpenContext) -> OpenedSet:
        """Open the set; DataError names the file and record that is wrong."""


class CocoConfig(SetConfig):
    """COCO JSON: see `models.data.coco`."""

    format: Literal["coco"]
    annotations: Path
    pictures: Path

    def open(self, context: OpenContext) -> RecordSet:
        folder = context.folder
        return _checked(CocoSet(folder / self.annotations, folder / self.pictures, skip=self.skip), self)


class YoloConfig(SetConfig):
    """A YOLO `data.yaml`: see `models.data.yolo`. `split`: by default `train` to train on, `val` to validate with."""

    format: Literal["yolo"]
    data: Path
    split: Literal["train", "val", "test"] | None = None

    def open(self, context: OpenContext) -> RecordSet:
        split = self.split or ("val" if context.held_out else "train")
        return _checked(YoloSet(context.folder / self.data, split, skip=self.skip), self)


class OdvgConfig(SetConfig):
    """ODVG JSON lines: see `models.data.odvg`."""

    format: Literal["odvg"]
    annotations: Path
    pictures: Path
    label_map: Path | None = None

    def open(self, context: OpenContext) -> RecordSet:
        folder = context.folder
        labels = None if self.label_map is None else folder / self.label_map
        records = OdvgSet(folder / self.annotations, folder / self.pictures, label_map=labels, skip=self.skip)
        return _checked(records, self)


class CaptionsConfig(SetConfig):
    """Pictures with captions: see `models.data.captions`."""

    format: Literal["captions"]
    path: Path
    pictures: Path | None = None
    picture_column: str | None = None
    caption_column: str | None = None

    def open(self, context: OpenContext) -> RecordSet:
        pictures = None if self.pictures is None else context.folder / self.pictures
        columns = {"picture_column": self.picture_column, "caption_column": self.caption_column}
        return _checked(open_captions(context.folder / self.path, pictures, skip=self.skip, **columns), self)


class ClassesConfig(SetConfig):
    """A folder with a folder of pictures for each class: see `models.data.class_folders`."""

    format: Literal["classes"]
    path: Path
    label_map: Path | None = None

    def open(self, context: OpenContext) -> RecordSet:
        return _checked(self.read(context.folder), self)

    def read(self, folder: Path) -> ClassFolders:
        """List the classes and their pictures; paths start at `folder`."""
        labels = None if self.label_map is None else folder / self.label_map
        return ClassFolders(folder / self.path, label_map=labels, skip=self.skip)


class ShardsConfig(SetConfig):
    """Tar shards: see `models.data.shards`. `buffer`: samples among which the next is drawn."""

    format: Literal["shards"]
    shards: str | tuple[str, ...]
    label_map: Path | None = None
    buffer: PositiveInt = 1000

    def open(self, context: OpenContext) -> ShardStream:
        labels = None if self.label_map is None else read_label_map(context.folder / self.label_map)
        return ShardStream(shard_files(self.shards, context.folder), buffer=self.buffer, labels=labels)


@dataclass(frozen=True)
class WeightedSet:
    """An opened set, its weight in the mixture, and whether faulty records are left out."""

    records: OpenedSet
    weight: float
    skip: bool


def open_sets(tables: Sequence[SetConfig], context: OpenContext) -> tuple[WeightedSet, ...]:
    """Open the sets of a recipe, with their weights."""
    opened = [table.open(context) for table in tables]
    return tuple(
        WeightedSet(records, _weight(table, records, alone=len(tables) == 1), table.skip)
        for table, records in zip(tables, opened, strict=True)
    )


def _weight(table: SetConfig, records: OpenedSet, *, alone: bool) -> float:
    if table.weight is not None or alone:
        return table.weight or 1.0
    if isinstance(records, ShardStream | RecordGenerator):
        raise DataError(f"{records.name}: the set needs a weight, since its records are not counted")
    return float(len(records))


def _checked(records: RecordSet, table: SetConfig) -> RecordSet:
    """Refuse an empty set, and one whose pictures are elsewhere, before the first epoch's start."""
    if not len(records):
        raise records.faults.no_record()
    if isinstance(records, CocoSet | YoloSet) and not records.num_boxes:
        raise DataError(f"{records.name} has no box in any picture: a detector would learn to find nothing")
    if not table.skip:
        first = records[0]
        first.picture.open(getattr(first, "size", None))
    return records
