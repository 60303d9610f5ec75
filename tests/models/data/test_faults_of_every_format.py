"""Damaged entries of every format: only typed faults, and what is left out leaves the other records as they are."""

import copy
import json
import tarfile
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.data.captions import open_captions
from models.data.coco import CocoSet
from models.data.collate import all_boxes
from models.data.images import DataError
from models.data.odvg import OdvgSet, read_label_map
from models.data.records import CaptionRecord, DetectionRecord, GroundingRecord, Record
from models.data.shards import ShardStream
from models.evaluation.synthetic_queries import open_generated
from tests.models.data import annotated_sets as sets
from tests.models.evaluation.test_synthetic_queries import generated

REPEATED = "~~repeated"  # becomes a key that occurs twice
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**12, 10**400, -(10**30), 1e300, float("nan"), float("inf"), -0.0, 0.5, 12.0]),
    st.sampled_from(["", " ", "nan", "12", "a\0b", "\ud800", "..", "../0.png", "0.png ", "x" * 500, "🐕"]),
)
WRONG = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner))
quick = settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    sets.coco(folder)
    sets.odvg(folder)
    generated(folder / "generated")
    return folder


@st.composite
def damaged(draw: st.DrawFn, entry: Any, *, keep: tuple[str, ...] = ()) -> Any:
    """The entry with one value of it, at any depth, replaced, removed or repeated; or another thing in its place."""
    entry = copy.deepcopy(entry)
    at = draw(st.sampled_from([path for path in paths(entry) if not {*keep} & {*path}]))
    if not at:
        return draw(WRONG)
    holder = entry
    for key in at[:-1]:
        holder = holder[key]
    what = draw(st.sampled_from(["replace", "replace", "remove", "repeat"]))
    if what == "remove":
        del holder[at[-1]]
    elif what == "repeat" and isinstance(holder, dict):
        holder[f"{at[-1]}{REPEATED}"] = draw(WRONG)
    else:
        holder[at[-1]] = draw(WRONG)
    return entry


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    yield ()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from ((key, *rest) for rest in paths(inner))


def dumped(value: Any) -> str:
    return json.dumps(value).replace(REPEATED, "")


def told(record: Record) -> tuple[Any, ...]:
    """All that a record says; texts can be printed, and boxes are trained on and shown."""
    common = (record.picture.where, record.where)
    if isinstance(record, CaptionRecord):
        texts, boxes, rest = record.captions, np.zeros((0, 4)), ()
    elif isinstance(record, DetectionRecord):
        texts, boxes, rest = record.names, record.boxes_xyxy, (record.labels.tolist(), record.size, record.absent)
    else:
        assert isinstance(record, GroundingRecord)
        texts, boxes = (record.caption,), all_boxes(record)
        rest = (*(region.spans for region in record.regions), record.size)
    assert all(text.strip() and text.encode() for text in (*common, *texts))
    assert np.isfinite(boxes).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    return (*common, texts, boxes.tolist(), rest)


def read(records: Any) -> list[tuple[Any, ...]]:
    return [told(records[index]) for index in range(len(records))]


def fault_of(act: Callable[[], Any]) -> str:
    """The message of the typed fault that is raised, if any is."""
    try:
        act()
    except DataError as error:
        return str(error)
    return ""


def faulty(open_set: Callable[[], Any]) -> bool:
    """Whether the set is refused, in a few words; else all that it holds can be read."""
    message = fault_of(lambda: read(open_set()))
    assert len(message) < 2000
    return bool(message)


def coco(folder: Path, data: dict[str, Any], *, skip: bool) -> CocoSet:
    (folder / "damaged.json").write_text(dumped(data))
    return CocoSet(folder / "damaged.json", folder / "pictures", skip=skip)


@quick
@given(data=st.data())
def test_a_damaged_coco_annotation(folder: Path, data: st.DataObject):
    whole = json.loads((folder / "coco.json").read_text())
    place = data.draw(st.integers(0, len(whole["annotations"]) - 1))
    whole["annotations"][place] |= {"area": 12.5}
    changed = copy.deepcopy(whole)
    changed["annotations"][place] = data.draw(damaged(whole["annotations"][place]))
    del whole["annotations"][place]
    if faulty(lambda: coco(folder, changed, skip=False)):
        found = coco(folder, changed, skip=True)
        assert found.faults.total == 1
        records, others = read(found), read(coco(folder, whole, skip=False))
        assert [record[:-1] for record in records] == [record[:-1] for record in others]
        unlike = [record for record, other in zip(records, others, strict=True) if record != other]
        assert len(unlike) <= 1, "only its picture is no longer said to lack what was left out"


@quick
@given(data=st.data())
def test_a_damaged_coco_image(folder: Path, data: st.DataObject):
    whole = json.loads((folder / "coco.json").read_text())
    whole["images"][0] |= {"neg_category_ids": [12, 13]}
    changed = copy.deepcopy(whole)
    changed["images"][0] = data.draw(damaged(whole["images"][0], keep=("id",)))
    whole["annotations"] = [one for one in whole["annotations"] if one["image_id"] != whole["images"][0]["id"]]
    del whole["images"][0]
    # Without its annotations, whose boxes are faults of their own in a picture that is only lower than it was.
    if faulty(lambda: coco(folder, changed | {"annotations": whole["annotations"]}, skip=False)):
        assert read(coco(folder, changed, skip=True)) == read(coco(folder, whole, skip=False))


@quick
@given(data=st.data())
def test_a_damaged_coco_category_or_id(folder: Path, data: st.DataObject):
    whole = json.loads((folder / "coco.json").read_text())
    changed = copy.deepcopy(whole)
    part = data.draw(st.sampled_from(["categories", "images", "annotations"]))
    changed[part][0] = data.draw(damaged(whole[part][0]))
    if faulty(lambda: coco(folder, changed, skip=False)):
        records = coco(folder, changed, skip=True)
        assert records.faults.total >= 1
        assert {row[0] for row in read(records)} <= {row[0] for row in read(coco(folder, whole, skip=False))}


@quick
@given(data=st.data())
def test_a_damaged_coco_file(folder: Path, data: st.DataObject):
    whole = json.loads((folder / "coco.json").read_text())
    changed = data.draw(damaged(whole))
    strict = fault_of(lambda: read(coco(folder, changed, skip=False)))
    lenient = fault_of(lambda: read(coco(folder, changed, skip=True)))
    assert all("damaged.json" in message for message in (strict, lenient) if message)
    assert strict or not lenient


def odvg(folder: Path, lines: list[Any], *, skip: bool, label_map: bool = True) -> OdvgSet:
    (folder / "damaged.jsonl").write_text("".join(f"{dumped(line)}\n" for line in lines))
    labels = folder / "labels.json" if label_map else None
    return OdvgSet(folder / "damaged.jsonl", folder / "pictures", label_map=labels, skip=skip)


@quick
@given(data=st.data(), place=st.integers(0, 5))
def test_a_damaged_odvg_line(folder: Path, data: st.DataObject, place: int):
    lines = [json.loads(line) for line in (folder / "odvg.jsonl").read_text().splitlines()]
    changed = [*lines[:place], data.draw(damaged(lines[place])), *lines[place + 1 :]]
    if faulty(lambda: odvg(folder, changed, skip=False)):
        found = odvg(folder, changed, skip=True)
        numbered = [*lines[:place], None, *lines[place + 1 :]]  # keeps the numbers of the lines
        assert found.faults.total == 1
        assert read(found) == read(odvg(folder, numbered, skip=True))
        assert len(found) == 5


@quick
@given(data=st.data())
def test_damaged_categories_of_odvg_lines_without_a_label_map(folder: Path, data: st.DataObject):
    names = ["cat", "dog", "bird"]
    instances = [{"bbox": [1, 1, 9, 9], "category": one} for one in names]
    lines = [{"filename": f"{n}.png", "detection": {"instances": instances[n:]}} for n in range(3)]
    changed = [data.draw(damaged(lines[0])), *lines[1:]]
    if faulty(lambda: odvg(folder, changed, skip=False, label_map=False)):
        found = odvg(folder, changed, skip=True, label_map=False)
        assert found.names == ("dog", "bird")


@quick
@given(value=st.one_of(WRONG, damaged({"0": "red", "1": "green"})))
def test_a_damaged_label_map(folder: Path, value: Any):
    (folder / "damaged_labels.json").write_text(dumped(value))
    try:
        labels = read_label_map(folder / "damaged_labels.json")
    except DataError:
        return
    assert all(isinstance(name, str) and name.strip() for name in labels.values())


@quick
@given(data=st.data(), place=st.integers(0, 2))
def test_a_damaged_line_of_captions(folder: Path, data: st.DataObject, place: int):
    lines: list[Any] = [{"image": f"{n}.png", "captions": ["a square", "b"]} for n in range(3)]
    file = folder / "captions.jsonl"

    def opened(lines: list[Any], *, skip: bool) -> Any:
        file.write_text("".join(f"{dumped(line)}\n" for line in lines))
        return open_captions(file, folder, skip=skip)

    changed = [*lines[:place], data.draw(damaged(lines[place])), *lines[place + 1 :]]
    if faulty(lambda: opened(changed, skip=False)):
        found = read(opened(changed, skip=True))
        assert found == read(opened([*lines[:place], None, *lines[place + 1 :]], skip=True))


@quick
@given(
    line=st.binary(max_size=60) | st.text('",\t\n\r a.png\0é', max_size=30).map(str.encode),
    suffix=st.sampled_from(["tsv", "csv"]),
)
def test_a_damaged_line_of_a_table(folder: Path, line: bytes, suffix: str):
    separator = {"tsv": b"\t", "csv": b","}[suffix]
    file = folder / f"table.{suffix}"
    head, tail = (b"%s%s%s\n" % (one, separator, two) for one, two in ((b"image", b"text"), (b"0.png", b"red")))
    file.write_bytes(head + line + b"\n" + tail)
    faulty(lambda: open_captions(file, folder))
    assert read(open_captions(file, folder, skip=True))[-1][2] == ("red",)


@quick
@given(text=st.binary(max_size=40))
def test_a_damaged_text_file_of_a_folder(tmp_path_factory: pytest.TempPathFactory, text: bytes):
    captioned = tmp_path_factory.getbasetemp() / "captioned"
    if not captioned.exists():
        sets.captions(captioned, 3)
    (captioned / "1.txt").write_bytes(text)
    if faulty(lambda: open_captions(captioned, None, skip=False)):
        assert len(open_captions(captioned, None, skip=True)) == 2


@quick
@given(data=st.data())
def test_a_damaged_sample_of_a_shard(folder: Path, data: st.DataObject):
    detection = {"detection": {"instances": [{"bbox": [0, 0, 9, 9], "label": 2}]}, "height": 60, "width": 80}
    good = [{"caption": "two squares"}, sets.grounding_line(1), detection]
    changed = data.draw(damaged(data.draw(st.sampled_from(good))))
    file = folder / "damaged.tar"
    members = {"0.png": b".", "0.json": dumped(changed).encode(), "1.png": b".", "1.txt": b"red"}
    with tarfile.open(file, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, BytesIO(content))
    labels = {str(place): name for place, name in enumerate(sets.NAMES)}
    stream = ShardStream((file,), buffer=1, labels=labels).read(seed=0, part=0, parts=1, skip=0)
    first, second = islice(stream, 2)
    assert isinstance(first, DataError) or told(first)
    assert isinstance(second, CaptionRecord)


@quick
@given(data=st.data())
def test_a_damaged_shard(folder: Path, data: st.DataObject):
    (file,) = sets.shards(folder / "shards", (3,))
    content = bytearray(file.read_bytes())
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    damaged_file = folder / "flipped.tar"
    damaged_file.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    records = ShardStream((damaged_file,), buffer=2).read(seed=0, part=0, parts=1, skip=0)
    message = fault_of(lambda: [isinstance(found, DataError) or told(found) for found in islice(records, 6)])
    assert not message or "flipped.tar" in message


@quick
@given(data=st.data())
def test_a_damaged_generated_set(folder: Path, data: st.DataObject):
    whole = json.loads((folder / "generated" / "annotations.json").read_text())
    other = folder / "generated-damaged"
    other.mkdir(exist_ok=True)
    (other / "annotations.json").write_text(dumped(data.draw(damaged(whole))))

    def drawn(skip: bool) -> None:
        for queries in open_generated(other, skip=skip).queries.values():
            assert len(list(queries.draw())) <= queries.count

    strict, lenient = fault_of(lambda: drawn(False)), fault_of(lambda: drawn(True))
    assert all("annotations.json" in message for message in (strict, lenient) if message)
    assert strict or not lenient
