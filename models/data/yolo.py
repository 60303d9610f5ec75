"""YOLO data sets: a `data.yaml` as Ultralytics documents it, and a text file of normalised boxes for each picture.

`path`, `train`, `val` and `test` name folders of pictures or `.txt` lists of them; `names` is a list, or a mapping from
class numbers. The labels of `images/a.jpg` are in `labels/a.txt`, lines "class cx cy w h" as shares of the picture, or
of a polygon "class x1 y1 x2 y2 x3 y3 ...", whose bounding box is taken. A picture without a file, or with an empty one,
shows none of the classes.
"""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
from pydantic import BeforeValidator, Field

from models.data.categories import CategoryNames
from models.data.entries import Box, DataEntry, FilePath, Words, absent_labels, checked, fitted_box, is_path, shown
from models.data.faults import Faults, RecordFault
from models.data.folders import pictures_in
from models.data.images import SUFFIXES, DataError, PictureFile
from models.data.records import DetectionRecord
from models.data.text_files import Lines, parse_yaml, read_text
from server.contract import image_file
from server.contract.regular_files import open_regular

SPLITS = ("train", "val", "test")
_HEAD_BYTES = 64 * 1024  # in which most JPEGs tell their size and orientation
_MAX_DIGITS = 9  # of a class
# Rounding of converters may leave a box this share of the picture outside of it.
SLACK = 1e-3


def _places(value: Any) -> Any:
    """One folder or list for several."""
    return [value] if isinstance(value, str) else value


def _numbered(value: Any) -> Any:
    """Names in the order of their numbers; a mapping with other keys stays one, and is refused."""
    if isinstance(value, dict) and sorted(value, key=str) == sorted(range(len(value)), key=str):
        return [value[number] for number in range(len(value))]
    return value


Places = Annotated[list[FilePath] | None, BeforeValidator(_places)]


class YoloFile(DataEntry):
    """The entries of a `data.yaml`."""

    kind: ClassVar[str] = "data.yaml"
    path: FilePath | None = Field(None, description="a folder is expected")
    train: Places = Field(None, description="a folder of pictures, a .txt list of them, or a list of such is expected")
    val: Places = Field(None, description="a folder of pictures, a .txt list of them, or a list of such is expected")
    test: Places = Field(None, description="a folder of pictures, a .txt list of them, or a list of such is expected")
    kpt_shape: Any = None
    names: Annotated[list[Words], Field(min_length=1), BeforeValidator(_numbered)] = Field(
        description="a list of texts, or a mapping of them from 0, 1, 2 and so on, is expected"
    )


class _Object(NamedTuple):
    """A line of a label file: the class, and its box as shares of the picture."""

    label: int
    box: Box


class _Picture(NamedTuple):
    """A picture with its objects; `absent`: the labels that it does not show, where objects of others are left out."""

    path: Path
    objects: tuple[_Object, ...]
    absent: tuple[int, ...] | None


class YoloSet:
    """The pictures of one split of a `data.yaml`, with their boxes.

    A faulty entry raises DataError, or with `skip` is left out and counted in `faults`: a line of a label file by
    itself, a picture with all its lines, also where its file cannot be read. Of a picture that lacks a line nobody says
    that it does not show the class. Label files are read at once, pictures when they are used.
    """

    def __init__(self, file: Path, split: str, *, skip: bool = False) -> None:
        self.name = f"{file} ({split})"
        self.faults = Faults(self.name, skip=skip)
        data = read_yolo(file)
        self._of_poses = data.kpt_shape is not None
        names = CategoryNames()
        self._labels = [names.add(name) for name in data.names]
        self.names = names.names
        places: Sequence[str] | None = getattr(data, split)
        if places is None:
            given = [name for name in SPLITS if getattr(data, name) is not None]
            raise DataError(f"{file} has no {split!r}; it has {', '.join(given) or 'no split'}")
        root = _root(file, data.path)
        pictures = dict.fromkeys(path for place in places for path in _pictures(root, place, file, self.faults))
        self._pictures = list(self.faults.kept(sorted(pictures), self._read))
        self.faults.log()

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, index: int) -> DetectionRecord:
        path, objects, absent = self._pictures[index]
        size = _size(path)
        height, width = size or (1, 1)
        boxes = np.asarray([one.box for one in objects], np.float64).reshape(-1, 4) * [width, height, width, height]
        labels = np.asarray([one.label for one in objects], np.int64)
        return DetectionRecord(PictureFile(path), boxes.astype(np.float32), labels, self.names, str(path), size, absent)

    @property
    def num_boxes(self) -> int:
        """The number of boxes in all pictures."""
        return sum(len(picture.objects) for picture in self._pictures)

    def _read(self, picture: Path) -> "_Picture":
        file = label_file(picture)
        if not os.path.lexists(file):
            return _Picture(picture, (), None)
        lines = enumerate(read_text(file).splitlines(), 1)
        doubtful: set[int] = set()

        def read(line: tuple[int, str]) -> _Object:
            words = line[1].split()
            try:
                return self._object(f"{file}, line {line[0]}", words)
            except RecordFault:
                label = self._label(words[0])
                other = label is None and words[0].isdecimal()
                doubtful.update([] if other else range(len(self.names)) if label is None else [label])
                raise

        objects = tuple(dict.fromkeys(self.faults.kept((line for line in lines if line[1].strip()), read)))
        present = {one.label for one in objects}
        absent = absent_labels(len(self.names), present, doubtful) if doubtful else None
        return _Picture(picture, objects, absent)

    def _object(self, where: str, words: list[str]) -> _Object:
        label = self._label(words[0])
        if label is None:
            message = f"{where}: its class is {shown(words[0])}; 0 to {len(self._labels) - 1} are expected"
            raise RecordFault(message, kind="label class")
        try:
            sides = [float(word) for word in words[1:]]
        except ValueError:
            sides = [float("nan")]
        if not all(-SLACK <= side <= 1 + SLACK for side in sides):  # false for NaN too
            message = f"{where} is {shown(' '.join(words))}; shares of the picture from 0 to 1 are expected"
            raise RecordFault(message, kind="label coordinates")
        sides = sides[:4] if self._of_poses else sides  # key points follow the box
        return _Object(label, fitted_box(_box(sides, where), (1, 1), where, kind="label box"))

    def _label(self, word: str) -> int | None:
        number = word.removesuffix(".0")  # as table programs write whole numbers
        known = number.isdecimal() and len(number) <= _MAX_DIGITS and int(number) < len(self._labels)
        return self._labels[int(number)] if known else None


def read_yolo(file: Path) -> YoloFile:
    """Read a `data.yaml`; DataError names the entry that is wrong."""
    data = parse_yaml(read_text(file), str(file))
    return checked(YoloFile, data, str(file))


def label_file(picture: Path) -> Path:
    """The label file of a picture: in `labels` in place of the last `images` of its path, else beside it."""
    parts = list(picture.parts)
    if "images" in parts[:-1]:
        last = len(parts) - 2 - parts[-2::-1].index("images")
        parts[last] = "labels"
    return Path(*parts).with_suffix(".txt")


def _root(file: Path, path: str | None) -> Path:
    """The folder that splits start at: `path`, itself below the file's folder, or that folder.

    As downloaded sets are moved, a `path` that is not there is passed over.
    """
    if path is not None and (file.parent / path).is_dir():
        return file.parent / path
    return file.parent


def _pictures(root: Path, place: str, file: Path, faults: Faults) -> list[Path]:
    """The pictures of a folder or of a list of them."""
    found = root / place
    if not found.exists() and place.startswith("../"):  # as Roboflow writes them, from a folder that is not there
        found = root / place.removeprefix("../")
    if found.is_dir():
        return [Path(os.path.abspath(path)) for path in pictures_in(found)]
    if found.suffix.lower() == ".txt" and found.is_file():
        lines = Lines(found)
        return list(faults.kept(range(len(lines)), lambda index: _listed(lines, index)))
    raise DataError(f"{file}: {place} is neither a folder nor a .txt list; looked for {found}")


def _listed(lines: Lines, index: int) -> Path:
    """The picture that a line of a list names."""
    name = lines.text(index).strip()
    if not is_path(name) or Path(name).suffix.lower() not in SUFFIXES:
        raise RecordFault(f"{lines.where(index)}: {shown(name)} is no picture's path", kind="line path")
    return Path(os.path.abspath(lines.file.parent / name))


def _box(sides: Sequence[float], where: str) -> Box:
    """The box of four shares, or around a polygon of three points or more."""
    if len(sides) == 4:
        cx, cy, width, height = sides
        return cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
    if len(sides) >= 6 and len(sides) % 2 == 0:
        xs, ys = sides[::2], sides[1::2]
        return min(xs), min(ys), max(xs), max(ys)
    message = f"{where} has {len(sides)} numbers after its class; cx cy w h, or the points of a polygon, are expected"
    raise RecordFault(message, kind="label coordinates")


def _size(picture: Path) -> tuple[int, int] | None:
    """(height, width) of a picture as it is seen, by its head; None for one that is found faulty once it is used."""
    try:
        with open_regular(picture) as file:
            head = file.read(_HEAD_BYTES)
            with suppress(image_file.ImageFileError):
                if head.startswith(b"\xff\xd8"):  # the others may need all of the file
                    return image_file.upright_size(head, name="it")
            return image_file.upright_size(head + file.read(), name="it")
    except (OSError, image_file.ImageFileError):
        return None
