"""Typed entries of data-set files: the fields of an entry, what each accepts, and boxes that lie in their picture.

Faulty, in every format and command: a field that is not as its description says, an object with a key twice, a box
without area or wholly outside its picture (one partly outside is clipped), an id of an image or category that occurs
twice, as a picture without captions may not, a reference to none, a blank caption or name, a picture that cannot be
read or has another size.

Not faulty: sizes that are unknown (0 or null) or floats, category names that differ in case and blanks (one label),
hidden files (no part of the set), Roboflow's parent of all categories (no label), fields that no reader uses.
"""

import reprlib
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar, TypeVar

import numpy as np
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from models.data.faults import RecordFault
from models.data.records import Float32
from models.data.text_files import RepeatedKeys

Box = tuple[float, float, float, float]
MAX_COORDINATE = 1e9  # float32, in which pictures are trained, holds it and its multiples
MAX_AREA = 1e10  # COCO's evaluator passes over objects of a larger area
MAX_PATH, MAX_NAME = 4000, 255  # characters of a path below a folder, bytes of a name in it

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 100
_SHOWN.maxdict = _SHOWN.maxlevel = 3


def _whole(value: Any) -> Any:
    """Take 320.0, as table programs write numbers, for 320."""
    return int(value) if type(value) is float and value.is_integer() else value


def _side(value: Any) -> Any:
    """Take 0, as converters write an unknown size, for none."""
    return None if value == 0 and type(value) in (int, float) else _whole(value)


def _flag(value: Any) -> Any:
    return bool(value) if value is None or (type(value) in (int, float) and value in (0, 1)) else value


def _printable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("surrogate", "it is no Unicode text") from None
    return text


def _visible(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "it is blank")
    return text


def _path(text: str) -> str:
    if not is_path(text):
        raise PydanticCustomError("path", "it is no path")
    return text


def is_path(text: str) -> bool:
    """True for a text that may name a file on any of the usual file systems."""
    names = text.encode().split(b"/")
    return bool(text.strip()) and "\0" not in text and len(text) <= MAX_PATH and max(map(len, names)) <= MAX_NAME


Whole = Annotated[int, Field(strict=True), BeforeValidator(_whole)]
Text = Annotated[str, Field(strict=True), AfterValidator(_printable)]
Words = Annotated[Text, AfterValidator(_visible)]
FilePath = Annotated[Text, AfterValidator(_path)]
Id = Annotated[Annotated[int, Field(strict=True)] | Text, BeforeValidator(_whole)]
Side = Annotated[Annotated[int, Field(strict=True, gt=0)] | None, BeforeValidator(_side)]
Flag = Annotated[bool, Field(strict=True), BeforeValidator(_flag)]
Coordinate = Annotated[float, Field(strict=True, ge=-MAX_COORDINATE, le=MAX_COORDINATE, allow_inf_nan=False)]
FourNumbers = Annotated[list[Coordinate], Field(min_length=4, max_length=4)]
Area = Annotated[float, Field(strict=True, ge=0, le=MAX_AREA, allow_inf_nan=False)]
Spans = Annotated[list[Annotated[list[Whole], Field(min_length=2, max_length=2)]], Field(min_length=1)]


class DataEntry(BaseModel):
    """An entry of a data-set file; `kind` is its word in messages and counts."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    kind: ClassVar[str]

    @model_validator(mode="before")
    @classmethod
    def _has_each_key_once(cls, value: Any) -> Any:
        if isinstance(value, RepeatedKeys):
            raise PydanticCustomError("repeated_key", "a key occurs twice")
        return value


class SizedEntry(DataEntry):
    """An entry with the size of its picture, in pixels."""

    height: Side = Field(None, description="a positive integer, or 0 or null where it is unknown, is expected")
    width: Side = Field(None, description="a positive integer, or 0 or null where it is unknown, is expected")

    @model_validator(mode="after")
    def _has_both_sides_or_none(self) -> "SizedEntry":
        if (self.height is None) != (self.width is None):
            raise PydanticCustomError("size", "height and width are both known, or neither")
        return self

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width), if they are known."""
        return None if self.height is None or self.width is None else (self.height, self.width)


E = TypeVar("E", bound=DataEntry)


def checked(kind: type[E], value: Any, where: str) -> E:
    """Return the entry in `value`; RecordFault names `where`, the field, its value, and what is accepted."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False)[0]
    if not isinstance(value, dict):
        raise RecordFault(f"{where} is {shown(value)}; an object is expected", kind=f"{kind.kind} entry")
    if not fault["loc"]:
        raise RecordFault(f"{where}: {fault['msg']}; it is {shown(value)}", kind=f"{kind.kind} entry")
    name = str(fault["loc"][0])
    accepted = kind.model_fields[name].description
    given = f"is {shown(value[name])}" if name in value else "is missing"
    raise RecordFault(f"{where}: {name} {given}; {accepted}", kind=f"{kind.kind} {name}")


def shown(value: Any) -> str:
    """A value of a file in a message: cut, on one line."""
    return _SHOWN.repr(value)


def fitted_box(box: Box, size: tuple[int, int] | None, where: str, *, kind: str) -> Box:
    """Clip a box to its picture of (height, width) `size`, if that is known; RecordFault if nothing is left of it."""
    if not _has_area(box):
        raise RecordFault(f"{where}: bbox is {_corners(box)}; a positive width and height are expected", kind=kind)
    if size is None:
        return box
    height, width = size
    clipped = (
        *(max(0.0, min(box[0], width)), max(0.0, min(box[1], height))),
        *(max(0.0, min(box[2], width)), max(0.0, min(box[3], height))),
    )
    if not _has_area(clipped):
        raise RecordFault(
            f"{where}: bbox is {_corners(box)}, outside the picture of {height} x {width} (height x width)", kind=kind
        )
    return clipped


def check_in_picture(boxes_xyxy: Float32, size: tuple[int, int], where: str) -> None:
    """Raise RecordFault if one of the boxes [M, 4] lies outside a picture whose size no file gave."""
    for box in boxes_xyxy.tolist():
        fitted_box((box[0], box[1], box[2], box[3]), size, where, kind="bbox outside the picture")


def absent_labels(count: int, present: Iterable[int], doubtful: Iterable[int]) -> tuple[int, ...]:
    """Labels of `count` that are not in a picture, of which an object is left out that may be of those `doubtful`."""
    return tuple(sorted({*range(count)} - {*present} - {*doubtful}))


def clip_boxes(boxes_xyxy: Float32, size: tuple[int, int]) -> tuple[Float32, np.ndarray]:
    """Clip boxes [M, 4] to a picture of (height, width) `size`; also returns a mask [M] of those with an area left."""
    height, width = size
    clipped = np.clip(boxes_xyxy, 0, np.asarray([width, height, width, height], np.float32)).astype(np.float32)
    return clipped, (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])


def box_array(boxes: Sequence[Sequence[float]]) -> Float32:
    """Boxes as an array [M, 4]."""
    return np.asarray(boxes, np.float32).reshape(-1, 4)


def checked_spans(spans: Sequence[Sequence[int]], caption: str, where: str) -> tuple[tuple[int, int], ...]:
    """Return character spans [start, end) that lie in `caption`; RecordFault names the record where they do not."""
    pairs = tuple((start, end) for start, end in spans)
    for start, end in pairs:
        if not 0 <= start < end <= len(caption):
            raise RecordFault(
                f"{where}: tokens_positive has [{start}, {end}), the caption has {len(caption)} characters",
                kind="tokens_positive",
            )
    return pairs


def _has_area(box: Box) -> bool:
    x0, y0, x1, y1 = map(np.float32, box)  # as it is trained and shown
    return bool(x1 > x0 and y1 > y0)


def _corners(box: Box) -> str:
    return "x0 {:g}, y0 {:g}, x1 {:g}, y1 {:g}".format(*box)
