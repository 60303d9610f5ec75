import csv
import json
from xml.etree import ElementTree

import pytest
import yaml
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
    assert job.picture("clip.mp4/000001000.jpg").path == frame
