"""Faulty records in `openset evaluate`: named, or left out, counted by kind, and missed by no figure."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.evaluation.backends import RecordRefused
from tests.models.data import annotated_sets as sets
from tests.models.evaluation.test_cli import evaluate, oracle, report
from tests.models.evaluation.test_dataset_queries import class_folder
from tests.models.evaluation.test_synthetic_queries import generated


@pytest.fixture
def coco(tmp_path: Path) -> dict[str, Any]:
    return sets.coco(tmp_path)


def figures(folder: Path, data: dict[str, Any], out: str) -> dict[str, Any]:
    sets.rewrite(folder, data)
    arguments = [folder / "coco.json", "--pictures", folder / "pictures", "--out", folder / out, "--skip-faulty"]
    assert evaluate(*arguments) == 0
    return report(folder / out)


BOX = {"id": 77, "image_id": 101, "category_id": 10, "bbox": [1, 1, 20, 20], "area": 9, "iscrowd": 0}
FAULTY = [
    *({"bbox": bbox} for bbox in ([None] * 4, ["1"] * 4, [0, 0, 5, float("nan")], [9, 9, 0, 0], [9, 9, -5, -5])),
    *({"bbox": [200, 0, 5, 5]}, {"area": "9"}, {"area": float("inf")}, {"iscrowd": []}, {"category_id": 99}),
]


@pytest.mark.parametrize("change", FAULTY, ids=str)
def test_a_faulty_annotation_is_counted_and_not_missed(tmp_path: Path, coco: dict[str, Any], answer, change):
    answer(detect=oracle(tmp_path / "pictures", missed=1))
    before = figures(tmp_path, coco, "before")
    after = figures(tmp_path, coco | {"annotations": [*coco["annotations"], BOX | change, None]}, "after")
    assert after["figures"] == before["figures"]
    assert after["faulty entries left out"] == {f"annotation {next(iter(change))}": 1, "annotation entry": 1}


def test_without_a_size_in_the_file_boxes_are_held_to_the_picture_itself(tmp_path: Path, coco, answer, capsys):
    answer(detect=oracle(tmp_path / "pictures"))
    for image in coco["images"]:
        del image["height"], image["width"]
    coco["annotations"][0]["bbox"] = [200, 200, 10, 10]  # the one object of image 100
    sets.rewrite(tmp_path, coco)
    arguments = [tmp_path / "coco.json", "--pictures", tmp_path / "pictures", "--out"]
    assert evaluate(*arguments, tmp_path / "one") == 2
    error = capsys.readouterr().err
    assert "coco.json: image id 100: bbox is x0 200, y0 200, x1 210, y1 210, outside the picture of 60 x 80" in error
    assert "--skip-faulty leaves such records out" in error
    found = figures(tmp_path, coco, "two")
    assert found["figures"]["detection"]["AP"] == pytest.approx(1)
    assert found["left_out_by_kind"]["detection"] == {"bbox outside the picture": 1}


def test_a_picture_that_the_model_refuses_is_left_out(tmp_path: Path, coco, answer, capsys):
    right = oracle(tmp_path / "pictures")
    refused = (tmp_path / "pictures" / "3.png").read_bytes()

    def detect(picture, labels):
        if picture == refused:
            raise RecordRefused("the image is animated", kind="broken image")
        return right(picture, labels)

    answer(detect=detect)
    sets.rewrite(tmp_path, coco)
    assert evaluate(tmp_path / "coco.json", "--pictures", tmp_path / "pictures", "--out", tmp_path / "one") == 2
    assert "coco.json: image id 103: the image is animated" in capsys.readouterr().err
    found = figures(tmp_path, coco, "two")
    assert found["figures"]["detection"]["AP"] == pytest.approx(1)
    assert found["left_out_by_kind"] == {"detection": {"broken image": 1}, "absent": {"broken image": 1}}
    assert "Left out as faulty: 1 (broken image 1), the first" in (tmp_path / "two" / "report.md").read_text()


def test_a_caption_that_is_too_long_is_left_out_with_its_picture(tmp_path: Path, answer):
    def embed(picture, texts):
        if any(len(text) > 70 for text in texts):
            raise RecordRefused("takes 90 tokens, the model reads 77", kind="prompt too long")
        return [1.0, 0.0], [[1.0, 0.0] for _ in texts]

    answer(embed=embed)
    folder = sets.captions(tmp_path / "set", 4)
    (folder / "1.txt").write_text("a square " * 10)
    assert evaluate(folder, "--out", tmp_path / "out", "--skip-faulty") == 0
    found = report(tmp_path / "out")
    assert found["figures"]["retrieval"]["pictures"] == 3
    assert found["left_out_by_kind"] == {"retrieval": {"prompt too long": 1}}


def test_a_measure_without_a_usable_image_has_no_figures(tmp_path: Path, coco, answer):
    """Only picture 0 lacks a label, so that `absent` has no other question."""
    right = oracle(tmp_path / "pictures")
    answer(detect=right)
    (tmp_path / "pictures" / "0.png").write_bytes(b"")
    coco["categories"] = coco["categories"][:1]
    coco["annotations"] = [BOX | {"id": n, "image_id": 101 + n} for n in range(5)]
    found = figures(tmp_path, coco, "out")
    assert found["figures"]["absent"] == {}
    assert found["figures"]["detection"]["AP"] >= 0
    coco["images"] = coco["images"][:1]
    sets.rewrite(tmp_path, coco)
    arguments = [tmp_path / "coco.json", "--pictures", tmp_path / "pictures", "--out", tmp_path / "none"]
    assert evaluate(*arguments, "--skip-faulty") == 2


def test_a_crowd_is_not_absent(tmp_path: Path, coco, answer):
    backend = answer(detect=lambda picture, labels: [])
    for annotation in coco["annotations"]:
        annotation["iscrowd"] = 1
    sets.rewrite(tmp_path, coco)
    arguments = [tmp_path / "coco.json", "--pictures", tmp_path / "pictures", "--out", tmp_path / "out"]
    assert evaluate(*arguments, "--measures", "absent") == 0
    present = [{name for name, _ in sets.picture(number)[1]} for number in range(6)]
    assert sorted(map(sorted, backend.asked)) == sorted(sorted(set(sets.NAMES) - names) for names in present)


@pytest.mark.parametrize("hidden", [".ipynb_checkpoints/0.png", "__MACOSX/0.png", "dog/._0.png", "dog/.hidden/0.png"])
def test_hidden_folders_are_no_classes(tmp_path: Path, answer, hidden: str):
    answer(classify=lambda picture, labels: [0.2, 0.8])
    folder = class_folder(tmp_path / "set")
    (folder / hidden).parent.mkdir(exist_ok=True)
    (folder / hidden).write_bytes(b"no picture")
    (folder / "README.txt").write_text("a set")
    assert evaluate(folder, "--out", tmp_path / "out") == 0
    assert report(tmp_path / "out")["figures"]["classification"]["names"] == 2


def test_a_class_without_a_picture_is_named_or_left_out(tmp_path: Path, answer, capsys):
    answer(classify=lambda picture, labels: [float(n) for n in range(len(labels))])
    folder = class_folder(tmp_path / "set")
    (folder / "cat" / "a.jpg").mkdir(parents=True)
    assert evaluate(folder, "--out", tmp_path / "one") == 2
    assert "cat has no picture" in capsys.readouterr().err
    assert evaluate(folder, "--out", tmp_path / "two", "--skip-faulty") == 0
    found = report(tmp_path / "two")
    assert (found["figures"]["classification"]["names"], found["faulty entries left out"]) == (
        2,
        {"class without a picture": 1},
    )


def test_classes_of_one_name_are_one_label(tmp_path: Path, answer):
    answer(classify=lambda picture, labels: [float(label == "dog") for label in labels])
    folder = class_folder(tmp_path / "set")
    Image.new("RGB", (8, 8)).save(folder / "dog" / "0.png")
    (folder / "Dog ").mkdir()
    Image.new("RGB", (8, 8)).save(folder / "Dog " / "0.png")
    assert evaluate(folder, "--out", tmp_path / "out") == 0
    assert report(tmp_path / "out")["figures"]["classification"]["names"] == 2


def test_a_generated_set_leaves_out_its_faulty_scenes(tmp_path: Path, answer):
    answer(detect=lambda picture, labels: [((10, 10, 30, 40), 0, 0.9)], classify=lambda picture, labels: [0.0, 0, 1])
    file = generated(tmp_path / "set") / "annotations.json"
    data = json.loads(file.read_text())
    data["annotations"][1]["bbox"] = [10, 10, 0, 30]
    file.write_text(json.dumps(data))
    assert evaluate(tmp_path / "set", "--out", tmp_path / "one", "--measures", "classification") == 2
    arguments = [tmp_path / "set", "--out", tmp_path / "two", "--measures", "classification"]
    assert evaluate(*arguments, "--skip-faulty") == 0
    assert report(tmp_path / "two")["faulty entries left out"] == {"annotation bbox": 1}
