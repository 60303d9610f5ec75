"""The page downloads the files that `openset label` writes."""

import csv
import json

import pytest
import yaml

from openset.label import formats
from openset.label.results_log import PictureResult
from openset.results import Detection
from tests.openset.label.fakes import labelled

from .scripts import evaluate

LABELS = ["dog", "red, cat", 'the "old" one']
HOSTILE = 'é "x", 犬.jpg'


def detection(label_id, *box, score=0.75):
    return Detection(box=box, label=LABELS[label_id], label_id=label_id, score=score, matched=[])


RESULTS = [
    PictureResult(
        image="a.jpg",
        width=40,
        height=30,
        detections=[detection(0, 1.5, 2.25, 11.75, 22.5), detection(2, 0, 0, 40, 30)],
    ),
    PictureResult(image="b.png", width=1333, height=800, detections=[]),
    PictureResult(
        image=HOSTILE,
        width=640,
        height=480,
        detections=[detection(1, 3.33, 4.44, 500.55, 479.99, score=0.123456)],
    ),
]


@pytest.fixture
def job(tmp_path):
    (tmp_path / "in").mkdir()
    for each in RESULTS:
        (tmp_path / "in" / each.image).write_bytes(b"bytes")
    return labelled(tmp_path, *RESULTS, categories=dict(enumerate(LABELS)))


ENTRIES = [
    {"name": each.image, "width": each.width, "height": each.height, "labels": LABELS, "blob": each.image}
    | {"detections": [found.model_dump() for found in each.detections]}
    for each in RESULTS
]


def test_coco_is_as_label_writes_it(job, tmp_path):
    written = json.loads(formats.write_coco(job, tmp_path).read_text("utf-8"))
    ours = evaluate("JSON.parse(coco(entries, 'fake'))", names=["coco"], of="formats.js", entries=ENTRIES)
    del written["info"], ours["info"]
    assert ours == written


def test_yolo_is_as_label_writes_it(job, tmp_path):
    target = formats.write_yolo(job, tmp_path)
    files = dict(evaluate("yolo(entries)", names=["yolo"], of="formats.js", entries=ENTRIES))
    paths = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert files.keys() == paths - {".images.json", ".labels.json"}, "all but the lists for a later run into the folder"
    ours, written = yaml.safe_load(files.pop("data.yaml")), yaml.safe_load((target / "data.yaml").read_text("utf-8"))
    assert ours == written
    assert {name: text for name, text in files.items() if name.startswith("labels/")} == {
        path.relative_to(target).as_posix(): path.read_text("utf-8") for path in target.glob("labels/*")
    }


def test_csv_has_the_rows_that_label_writes(job, tmp_path):
    with formats.write_csv(job, tmp_path).open(encoding="utf-8", newline="") as file:
        written = list(csv.reader(file))
    ours = list(csv.reader(evaluate("csv(entries)", names=["csv"], of="formats.js", entries=ENTRIES).splitlines()))
    assert [row[:2] for row in ours] == [row[:2] for row in written]
    assert [[float(cell) for cell in row[2:]] for row in ours[1:]] == [
        [float(cell) for cell in row[2:]] for row in written[1:]
    ]


def test_scores_of_labels_are_rows_too():
    entries = [{"name": "a.jpg", "scores": [{"label": "dog", "label_id": 0, "score": 0.5}]}]
    assert (
        evaluate("csv(entries)", names=["csv"], of="formats.js", entries=entries)
        == "image,label,score\r\na.jpg,dog,0.5\r\n"
    )


def test_pictures_of_one_name_stay_apart():
    entries = [{"name": name} for name in ("cat.jpg", "cat.jpg", "cat.png", "a/b.jpg", "plain")]
    names = evaluate("unique(entries).map(({ name }) => name)", names=["unique"], of="formats.js", entries=entries)
    assert names == ["cat.jpg", "cat-2.jpg", "cat-3.png", "a_b.jpg", "plain"]
