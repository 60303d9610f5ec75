"""YOLO data sets in the layouts that Ultralytics documents, and their faults."""

import io
import json
from contextlib import suppress

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from models.data.images import DataError
from models.data.yolo import YoloSet, label_file
from tests.models.data import annotated_sets as sets

NAMES = ["red", "green", "blue", "white"]


@pytest.fixture
def folder(tmp_path):
    """Four pictures to train on and two to validate with; 0.png has boxes, a polygon is in 1.txt."""
    for split, count in (("train", 4), ("val", 2)):
        found = sets.write_pictures(tmp_path / "images" / split, count)
        labels = tmp_path / "labels" / split
        labels.mkdir(parents=True)
        for number, things in enumerate(found):
            (labels / f"{number}.txt").write_text("".join(line(name, box) for name, box in things))
    write(tmp_path, names=NAMES)
    return tmp_path


def line(name, box):
    x, y, width, height = box
    return f"{NAMES.index(name)} {(x + width / 2) / 80} {(y + height / 2) / 60} {width / 80} {height / 60}\n"


def write(folder, **entries):
    given = {"path": str(folder), "train": "images/train", "val": "images/val", **entries}
    (folder / "data.yaml").write_text(yaml.safe_dump({key: value for key, value in given.items() if value is not None}))


def opened(folder, split="train", **options):
    return YoloSet(folder / "data.yaml", split, **options)


def test_boxes_are_pixels_of_their_pictures(folder):
    records = opened(folder)
    assert (len(records), records.names) == (4, tuple(NAMES))
    for number in range(4):
        _, things = sets.picture(number)
        record = records[number]
        assert record.size == (60, 80)
        assert [NAMES[label] for label in record.labels] == [name for name, _ in things]
        wanted = [[x, y, x + width, y + height] for _, (x, y, width, height) in things]
        np.testing.assert_allclose(record.boxes_xyxy, wanted, atol=1e-3)


def test_polygon_becomes_the_box_around_it(folder):
    (folder / "labels/train/0.txt").write_text("1 0.25 0.5 0.5 0.25 0.75 0.5 0.5 0.75\n")
    record = opened(folder)[0]
    np.testing.assert_allclose(record.boxes_xyxy, [[20, 15, 60, 45]], atol=1e-4)


def test_key_points_after_a_box_are_passed_over(folder):
    write(folder, names=NAMES, kpt_shape=[2, 3])
    (folder / "labels/train/0.txt").write_text("1 0.5 0.5 0.5 0.5 0.1 0.1 1 0.2 0.2 1\n".replace("0.2 1", "0.2 1"))
    np.testing.assert_allclose(opened(folder)[0].boxes_xyxy, [[20, 15, 60, 45]], atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        {"names": dict(enumerate(NAMES))},
        {"path": None},
        {"path": "."},
        {"path": "/nowhere/that/is"},
        {"train": ["images/train"]},
        {"train": "../images/train"},
        {"nc": 4, "download": "https://example.com/set.zip"},
    ],
)
def test_layouts_that_tools_write_are_the_same_set(folder, change):
    before = [opened(folder)[number].boxes_xyxy.tolist() for number in range(4)]
    write(folder, **{"names": NAMES, **change})
    assert [opened(folder)[number].boxes_xyxy.tolist() for number in range(4)] == before


def test_split_may_be_a_list_of_pictures(folder):
    (folder / "train.txt").write_text("./images/train/1.png\n\nimages/train/3.png\n")
    write(folder, names=NAMES, train="train.txt")
    assert [record.picture.path.name for record in map(opened(folder).__getitem__, range(2))] == ["1.png", "3.png"]


def test_picture_without_labels_shows_none_of_the_classes(folder):
    (folder / "labels/train/0.txt").unlink()
    (folder / "labels/train/1.txt").write_text("\n")
    records = opened(folder)
    assert [len(records[number].labels) for number in range(2)] == [0, 0]


def test_labels_are_beside_pictures_that_are_in_no_images_folder(tmp_path):
    assert label_file(tmp_path / "a" / "b.jpg") == tmp_path / "a" / "b.txt"
    assert label_file(tmp_path / "images" / "x" / "images" / "b.jpg") == tmp_path / "images" / "x" / "labels" / "b.txt"


def test_picture_on_its_side_is_measured_as_it_is_seen(folder):
    image = Image.new("RGB", (80, 60), "grey")
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(folder / "images/train/0.jpg", exif=exif)
    (folder / "images/train/0.png").unlink()
    (folder / "labels/train/0.txt").write_text("0 0.5 0.5 1 0.5\n")
    record = opened(folder)[0]
    assert record.size == (80, 60)
    assert record.picture.open(record.size).size == (60, 80)
    np.testing.assert_allclose(record.boxes_xyxy, [[0, 20, 60, 60]], atol=1e-4)


@pytest.mark.parametrize(
    ("text", "told", "kind"),
    [
        ("4 0.5 0.5 0.1 0.1", "0.txt, line 1: its class is '4'; 0 to 3 are expected", "label class"),
        ("red 0.5 0.5 0.1 0.1", "its class is 'red'", "label class"),
        ("-1 0.5 0.5 0.1 0.1", "its class is '-1'", "label class"),
        ("0 0.5 0.5 0.1", "has 3 numbers after its class", "label coordinates"),
        ("0", "has 0 numbers after its class", "label coordinates"),
        ("0 40 30 10 10", "shares of the picture from 0 to 1 are expected", "label coordinates"),
        ("0 0.5 0.5 -0.1 0.1", "shares of the picture", "label coordinates"),
        ("0 nan 0.5 0.1 0.1", "shares of the picture", "label coordinates"),
        ("0 a b c d", "shares of the picture", "label coordinates"),
        ("0 0.5 0.5 0 0.1", "a positive width and height", "label box"),
    ],
)
def test_faulty_line_is_named_or_left_out(folder, text, told, kind):
    file = folder / "labels/train/0.txt"
    whole = file.read_text()
    file.write_text(f"{text}\n{whole}")
    with pytest.raises(DataError, match=told):
        opened(folder)
    found = opened(folder, skip=True)
    assert dict(found.faults.counts) == {kind: 1}
    assert len(found[0].labels) == len(whole.splitlines())


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ({"names": None}, "names is missing"),
        ({"names": []}, "names is"),
        ({"names": {0: "a", 2: "b"}}, "a mapping of them from 0, 1, 2"),
        ({"names": ["a", ""]}, "names is"),
        ({"names": NAMES, "train": None}, "has no 'train'; it has val"),
        ({"names": NAMES, "train": 3}, "train is 3"),
        ({"names": NAMES, "train": "elsewhere"}, "elsewhere is neither a folder nor a .txt list"),
    ],
)
def test_faulty_entry_is_named(folder, entries, told):
    write(folder, **entries)
    with pytest.raises(DataError, match=told):
        opened(folder)


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "!!python/object/apply:os.system ['true']", "{" * 5000])
def test_file_that_is_no_mapping_is_refused(folder, text):
    (folder / "data.yaml").write_text(text)
    with pytest.raises(DataError, match=r"data\.yaml"):
        opened(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(max_size=80) | st.text("0123456789. -\n\tnae", max_size=60).map(str.encode))
def test_any_label_file_gives_boxes_within_the_picture_or_typed_faults(folder, data):
    (folder / "labels/train/0.txt").write_bytes(data)
    with suppress(DataError):
        opened(folder)
    record = opened(folder, skip=True)[0]
    x0, y0, x1, y1 = record.boxes_xyxy.T
    assert ((x0 >= 0) & (y0 >= 0) & (x1 <= 80) & (y1 <= 60) & (x1 > x0) & (y1 > y0)).all()


def test_damaged_picture_is_a_fault_of_its_own(folder):
    (folder / "images/train/0.png").write_bytes(b"no picture")
    record = opened(folder)[0]
    with pytest.raises(DataError, match=r"0\.png"):
        record.picture.open(record.size)


def test_labels_of_openset_label_are_such_a_set(folder, tmp_path):
    target = tmp_path / "made"
    (target / "images").mkdir(parents=True)
    Image.new("RGB", (40, 20)).save(target / "images" / "a.png")
    (target / "labels").mkdir()
    (target / "labels" / "a.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    (target / "data.yaml").write_text(f"train: images\nval: images\nnames: {json.dumps(['a', 'b'])}\n")
    assert YoloSet(target / "data.yaml", "val")[0].boxes_xyxy.tolist() == [[10, 5, 30, 15]]


@pytest.mark.parametrize(
    ("text", "absent"),
    [
        ("0 nan 0.5 0.1 0.1", ("green", "blue", "white")),
        ("red 0.5 0.5 0.1 0.1", ()),
        (f"{'9' * 5000} 0.5 0.5 0.1 0.1", ("red", "green", "blue", "white")),
        ("0 nan 0.5 0.1 0.1\n2 0.5 0.5 0.1 0.1", ("green", "white")),
    ],
)
def test_label_of_a_line_left_out_is_not_said_to_be_absent(folder, text, absent):
    (folder / "labels/train/2.txt").write_text(text)
    record = opened(folder, skip=True)[2]
    known = range(len(NAMES)) if record.absent is None else record.absent
    assert tuple(NAMES[label] for label in known) == absent


@pytest.mark.parametrize("content", [b"\xff\xfe0\0", None], ids=["UTF-16", "a link to nowhere"])
def test_picture_whose_label_file_cannot_be_read_is_left_out(folder, content):
    file = folder / "labels/train/2.txt"
    file.unlink()
    file.write_bytes(content) if content else file.symlink_to("nowhere")
    with pytest.raises(DataError, match=r"2\.txt"):
        opened(folder)
    records = opened(folder, skip=True)
    assert len(records) == 3
    assert records.faults.total == 1


@pytest.mark.parametrize("line", ["# a comment", "a" * 5000 + ".jpg", "a.doc"])
def test_line_of_a_list_is_named_or_left_out(folder, line):
    (folder / "list.txt").write_text(f"images/train/0.png\n{line}\nimages/train/1.png\n")
    write(folder, names=NAMES, train="list.txt")
    with pytest.raises(DataError, match=r"list\.txt, line 2: .* is no picture's path"):
        opened(folder)
    records = opened(folder, skip=True)
    assert (len(records), records.faults.counts) == (2, {"line path": 1})


@pytest.mark.parametrize("place", ["a" * 300, "a/" * 2500])
def test_path_that_no_file_can_have_is_named(folder, place):
    for entries in ({"train": place}, {"path": place}):
        write(folder, names=NAMES, **entries)
        with pytest.raises(DataError, match=r"data\.yaml: (train|path) is 'a"):
            opened(folder)


def lying(form):
    """A picture of 80 x 60 that is stored on its side, as the one reader sees it alone."""
    entries, file = Image.Exif(), io.BytesIO()
    entries[0x0112] = 6
    Image.new("RGB", (60, 80)).save(file, form, exif=entries)
    return file.getvalue()


def png_with_late_orientation():
    data = lying("PNG")
    start, end = data.index(b"eXIf") - 4, data.index(b"IDAT") - 4
    return data[:start] + data[end:-12] + data[start:end] + data[-12:]


def tiff_after_its_thumbnail():
    file, full = io.BytesIO(), Image.new("RGB", (80, 60))
    full.resize((20, 15)).save(file, "TIFF", save_all=True, append_images=[full])
    return file.getvalue()


def png_with_a_large_profile():
    file = io.BytesIO()
    Image.new("RGB", (80, 60)).save(file, "PNG", icc_profile=b"a profile " * 200_000)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        *((f"5.{suffix}", lambda form=form: lying(form)) for suffix, form in (("jpg", "JPEG"), ("webp", "WEBP"))),
        ("5.jpg", lambda: lying("JPEG").replace(b"\xff\xe1", b"\xff\xe2\xff\xff" + bytes(0xFFFD) + b"\xff\xe1", 1)),
        ("5.png", png_with_late_orientation),
        ("5.tif", tiff_after_its_thumbnail),
        ("5.png", png_with_a_large_profile),
    ],
)
def test_boxes_fit_the_picture_as_it_is_read(folder, name, data):
    (folder / "images/train" / name).write_bytes(data())
    (folder / "labels/train/5.txt").write_text("0 0.5 0.5 0.5 0.5")
    records = opened(folder)
    record = next(records[index] for index in range(5) if records[index].where.endswith(name))
    assert record.picture.open(record.size).size == (80, 60)
    assert record.boxes_xyxy.tolist() == [[20, 15, 60, 45]]
