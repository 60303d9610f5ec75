import csv
import json
import shutil
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO

from openset.label import formats
from openset.label.results_log import PictureResult

from .fakes import CAT, DOG, labelled, result


@pytest.fixture
def job(tmp_path):
    for name in ("a.jpg", "a.png", "sub/b.jpg"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return labelled(
        tmp_path,
        result("sub/b.jpg", DOG, CAT),
        result("a.jpg"),
        result("a.png", DOG),
        PictureResult(image="broken.jpg", error="damaged"),
    )


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_coco_file_is_read_by_pycocotools(job, out):
    coco = COCO(formats.write_coco(job, out))
    assert [each["file_name"] for each in coco.loadImgs(coco.getImgIds())] == ["a.jpg", "a.png", "sub/b.jpg"]
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == ["dog", "banana", "red cat"]
    boxes = coco.loadAnns(coco.getAnnIds(imgIds=[3]))
    assert [(each["category_id"], each["bbox"], each["area"], each["score"]) for each in boxes] == [
        (1, [1.0, 2.0, 10.0, 20.0], 200.0, 0.75),
        (3, [0.0, 0.0, 40.0, 30.0], 1200.0, 0.5),
    ]


def test_yolo_set_has_pictures_labels_and_names_even_for_equal_stems(job, out):
    target = formats.write_yolo(job, out)
    assert yaml.safe_load((target / "data.yaml").read_text())["names"] == ["dog", "banana", "red cat"]
    assert (target / "images" / "sub" / "b.jpg").read_bytes() == b"sub/b.jpg"
    assert (target / "labels" / "sub" / "b.txt").read_text().splitlines() == [
        "0 0.150000 0.400000 0.250000 0.666667",
        "2 0.500000 0.500000 1.000000 1.000000",
    ]
    assert (target / "labels" / "a.txt").read_text() == ""
    assert (target / "labels" / "a_png.txt").read_text().startswith("0 ")
    assert (target / "images" / "a_png.png").read_bytes() == b"a.png"
    assert formats.write_yolo(job, out) == target  # a second time


def test_picture_keeps_its_labels_when_a_run_goes_on_with_one_of_the_same_stem(job, out):
    formats.write_yolo(job, out)
    (job.root / "a.gif").write_bytes(b"a.gif")
    job.log.append(result("a.gif", DOG, CAT))
    target = formats.write_yolo(job, out)
    assert (target / "images" / "a.jpg").read_bytes() == b"a.jpg"
    assert (target / "labels" / "a.txt").read_text() == ""
    assert len((target / "labels" / "a_gif.txt").read_text().splitlines()) == 2


NAMES = ["a.jpg", "a.png", "A.jpg", "a_png.jpg", "a_png_.jpg", "images/a.jpg", "images_/a.jpg", "images/images/a.jpg"]


@given(st.permutations(NAMES))
@settings(max_examples=20, deadline=None)
def test_yolo_labels_are_where_readers_look_for_them_and_of_one_picture_each(names):
    with tempfile.TemporaryDirectory() as folder:
        job = labelled(Path(folder), *(result(name, *[DOG] * count) for count, name in enumerate(names)))
        for name in names:
            (job.root / name).parent.mkdir(parents=True, exist_ok=True)
            (job.root / name).write_text(name)
        target = formats.write_yolo(job, Path(folder))
        found = {}
        for picture in (path for path in (target / "images").rglob("*") if path.is_file()):
            # As Ultralytics: `labels` in place of the last `images` of a path.
            place = Path("/labels/".join(str(picture).rsplit("/images/", 1))).with_suffix(".txt")
            found[picture.read_text()] = len(place.read_text().splitlines())
        assert found == {name: count for count, name in enumerate(names)}


def test_characters_that_xml_and_yaml_cannot_hold_spoil_no_file(out, tmp_path):
    label = "dog\x7f\u2028b"
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a\x01.jpg").write_bytes(b"")
    job = labelled(tmp_path, result("a\x01.jpg", DOG.model_copy(update={"label": label})), categories={0: label})
    data = yaml.safe_load((formats.write_yolo(job, out) / "data.yaml").read_text("utf-8"))
    assert data["names"] == [label]
    (annotation,) = formats.write_voc(job, out).glob("*.xml")
    assert ElementTree.parse(annotation).getroot().findtext("filename") == "a\ufffd.jpg"


def test_originals_survive_a_tool_that_rewrites_the_set_in_place(job, out):
    for picture in (formats.write_yolo(job, out) / "images").rglob("*.*"):
        picture.write_bytes(b"augmented")
    assert (job.root / "sub" / "b.jpg").read_bytes() == b"sub/b.jpg"
    assert (job.root / "a.png").read_bytes() == b"a.png"


def test_files_of_pictures_that_are_gone_are_removed_and_others_are_left(job, out, tmp_path):
    for write in (formats.write_yolo, formats.write_voc):
        write(job, out)
    (out / "yolo" / "labels.cache").write_text("of a reader")
    (out / "yolo" / "images" / "mine.jpg").write_text("mine")
    job.log.close()
    (tmp_path / "out" / "results.jsonl").unlink()
    rest = labelled(tmp_path, result("a.png", DOG))
    for write in (formats.write_yolo, formats.write_voc):
        write(rest, out)
    left = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {name for name in left if name.startswith(("yolo", "voc")) and "/." not in name} == {
        "yolo/data.yaml",
        "yolo/images/a.png",
        "yolo/images/mine.jpg",
        "yolo/labels/a.txt",
        "yolo/labels.cache",
        "voc/Annotations/a.xml",
    }


def test_copy_that_a_kill_ended_is_made_again(job, out, monkeypatch):
    def half(source, target):
        Path(target).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(shutil, "copyfile", half)
        with pytest.raises(KeyboardInterrupt):
            formats.write_yolo(job, out)
    target = formats.write_yolo(job, out)
    assert (target / "images" / "sub" / "b.jpg").read_bytes() == b"sub/b.jpg"


def test_voc_boxes_are_whole_pixels_from_one_within_the_picture(job, out):
    target = formats.write_voc(job, out)
    root = ElementTree.parse(target / "sub" / "b.xml").getroot()
    boxes = [[int(side.text) for side in box] for box in root.iter("bndbox")]
    assert boxes == [[2, 3, 11, 22], [1, 1, 40, 30]]
    assert [each.findtext("name") for each in root.iter("object")] == ["dog", "red cat"]
    assert len(list(target.rglob("*.xml"))) == 3


def test_csv_has_a_row_for_each_detection(job, out):
    with formats.write_csv(job, out).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["image"], row["label"], row["x1"], row["score"]) for row in rows] == [
        ("a.png", "dog", "11.0", "0.75"),
        ("sub/b.jpg", "dog", "11.0", "0.75"),
        ("sub/b.jpg", "red cat", "40.0", "0.5"),
    ]


@pytest.mark.parametrize("empty", [False, True])
def test_parquet_has_the_typed_rows_of_the_csv(job, out, tmp_path, empty):
    parquet = pytest.importorskip("pyarrow.parquet")
    job = labelled(tmp_path / "empty", result("a.jpg")) if empty else job
    table = parquet.read_table(formats.write_parquet(job, out))
    assert table.column_names == list(formats.COLUMNS)
    assert table.num_rows == (0 if empty else 3)


def test_label_studio_tasks_have_percentages_and_the_labels_of_the_interface(job, out):
    target = formats.write_label_studio(job, out)
    tasks = json.loads((target / "tasks.json").read_text())
    (prediction,) = tasks[2]["predictions"]
    assert tasks[2]["data"]["image"] == "/data/local-files/?d=sub/b.jpg"
    assert prediction["result"][0]["value"] == {
        "x": 2.5, "y": 6.6667, "width": 25.0, "height": 66.6667, "rotation": 0, "rectanglelabels": ["dog"],
    }  # fmt: skip
    view = ElementTree.parse(target / "config.xml").getroot()
    assert [label.get("value") for label in view.iter("Label")] == ["dog", "banana", "red cat"]


def test_frame_of_a_video_is_found_below_the_frames(job, out):
    frame = out / "frames" / "clip.mp4" / "000001000.jpg"
    frame.parent.mkdir(parents=True)
    frame.write_bytes(b"frame")
    assert job.path("clip.mp4/000001000.jpg") == frame
