"""Evaluation sets by format: the small sets of coloured squares that training is tested on."""

from pathlib import Path

import pytest
from PIL import Image

from models.data.images import DataError
from models.evaluation.dataset_queries import detect_format, open_evaluation_set
from models.evaluation.metrics import EvaluationSet, Query
from tests.models.data import annotated_sets as sets
from tests.models.evaluation.test_synthetic_queries import generated


def drawn(data: EvaluationSet, metric: str) -> list[Query]:
    queries = list(data.queries[metric].draw())
    assert len(queries) <= data.queries[metric].count
    return queries


def test_coco_queries_have_every_label_and_absent_ones_some_that_are_absent(tmp_path: Path):
    data = sets.coco(tmp_path)
    found = open_evaluation_set(tmp_path / "coco.json", "coco", images=tmp_path / "pictures")
    detection, absent = drawn(found, "detection"), drawn(found, "absent")
    assert len(detection) == len(absent) == len(data["images"])
    assert all(one.texts == sets.NAMES for one in detection)
    for one, other in zip(detection, absent, strict=True):
        present = {sets.NAMES[box.label] for box in one.target[1]}
        assert present
        assert present | set(other.texts) == set(sets.NAMES)
        assert not present & set(other.texts)
    assert [one.texts for one in absent] == [one.texts for one in drawn(found, "absent")]


def test_coco_boxes_keep_their_areas_and_crowds(tmp_path: Path):
    data = sets.coco(tmp_path)
    first = data["annotations"][0]
    first["area"] = 7.5
    data["annotations"].append({**first, "id": 99, "iscrowd": 1, "bbox": [0, 0, 50, 50]})
    sets.rewrite(tmp_path, data)
    found = open_evaluation_set(tmp_path / "coco.json", "coco", images=tmp_path / "pictures")
    one, crowd = drawn(found, "detection")[0].target[1]
    assert (one.area, one.crowd, crowd.crowd) == (7.5, False, True)
    x, y, width, height = first["bbox"]
    assert one.box == (x, y, x + width, y + height)


def test_only_annotated_labels_are_queried(tmp_path: Path):
    data = sets.coco(tmp_path)  # picture 0 shows a red square
    for image in data["images"]:
        image["neg_category_ids"] = [12]
    sets.rewrite(tmp_path, data)
    found = open_evaluation_set(tmp_path / "coco.json", "coco", images=tmp_path / "pictures")
    assert drawn(found, "detection")[0].texts == ("red", "blue")
    assert drawn(found, "absent")[0].texts == ("blue",)


def test_odvg_has_queries_by_label_and_by_phrase(tmp_path: Path):
    lines = sets.odvg(tmp_path)
    labels = tmp_path / "labels.json"
    found = open_evaluation_set(tmp_path / "odvg.jsonl", "odvg", images=tmp_path / "pictures", label_map=labels)
    grounding = drawn(found, "grounding")
    assert len(grounding) == sum("grounding" in line for line in lines) == 4
    assert len(drawn(found, "detection")) == 2
    assert grounding[1].texts == ("a green square", "a blue square")
    assert [len(boxes) for boxes in grounding[1].target] == [1, 1]


def test_regions_of_one_phrase_are_one_text(tmp_path: Path):
    lines = sets.odvg(tmp_path, 1)
    regions = lines[0]["grounding"]["regions"]
    regions.append({**regions[0], "bbox": [1, 2, 3, 4]})
    sets.write_lines(tmp_path / "odvg.jsonl", lines)
    (one,) = drawn(open_evaluation_set(tmp_path / "odvg.jsonl", "odvg", images=tmp_path / "pictures"), "grounding")
    assert (one.texts, [len(boxes) for boxes in one.target]) == (("a red square",), [2])


def test_captions_are_queries_of_retrieval(tmp_path: Path):
    found = open_evaluation_set(sets.captions(tmp_path / "captions"), "captions", limit=3)
    assert [one.texts for one in drawn(found, "retrieval")] == [
        ("a red square",),
        ("a green square", "a blue square"),
        ("a blue square",),
    ]


def class_folder(folder: Path) -> Path:
    for name in ("ice_cream", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (8, 8)).save(folder / name / f"{number}.png")
    return folder


def test_a_folder_is_a_class(tmp_path: Path):
    found = open_evaluation_set(class_folder(tmp_path / "set"), "classes")
    queries = drawn(found, "classification")
    assert found.labels == ("dog", "ice cream")
    assert [found.labels[one.target] for one in queries] == ["dog", "dog", "ice cream", "ice cream"]


def test_a_label_map_must_name_every_class(tmp_path: Path):
    folder, labels = class_folder(tmp_path / "set"), tmp_path / "labels.json"
    labels.write_text('{"dog": "a puppy", "ice_cream": "gelato"}')
    assert open_evaluation_set(folder, "classes", label_map=labels).labels == ("a puppy", "gelato")
    labels.write_text('{"dog": "a puppy"}')
    with pytest.raises(DataError, match=r"labels.json has no \['ice_cream'\]"):
        open_evaluation_set(folder, "classes", label_map=labels)


def test_formats_are_detected_by_suffix_and_contents(tmp_path: Path):
    assert detect_format(tmp_path / "a.json") == "coco"
    assert detect_format(tmp_path / "a.jsonl") == "odvg"
    assert detect_format(tmp_path / "a.tsv") == "captions"
    assert detect_format(generated(tmp_path / "generated")) == "generated"
    assert detect_format(sets.captions(tmp_path / "captions")) == "captions"
    assert detect_format(class_folder(tmp_path / "classes")) == "classes"
    with pytest.raises(DataError, match=r"a\.parquet is neither a folder nor"):
        detect_format(tmp_path / "a.parquet")


def test_a_faulty_record_is_named(tmp_path: Path):
    data = sets.coco(tmp_path)
    data["annotations"][2]["bbox"] = [1, 2]
    sets.rewrite(tmp_path, data)
    with pytest.raises(DataError, match=r"coco.json: annotation id 2: bbox is \[1, 2\]"):
        open_evaluation_set(tmp_path / "coco.json", "coco", images=tmp_path / "pictures")
    found = open_evaluation_set(tmp_path / "coco.json", "coco", images=tmp_path / "pictures", skip=True)
    assert dict(found.faults) == {"annotation bbox": 1}
    assert sum(len(one.target[1]) for one in drawn(found, "detection")) == 8


def test_label_whose_faulty_box_is_left_out_is_not_asked_of_its_picture(tmp_path: Path):
    data = sets.coco(tmp_path)
    data["annotations"] = [one for one in data["annotations"] if one["image_id"] == data["images"][0]["id"]]
    category = data["categories"][-1]
    image = data["images"][1]
    data["annotations"].append({"id": 77, "image_id": image["id"], "category_id": category["id"], "bbox": [None] * 4})
    sets.rewrite(tmp_path, data)
    found = open_evaluation_set(tmp_path / "coco.json", "coco", images=tmp_path / "pictures", skip=True)
    for metric in ("detection", "absent"):
        asked = [query.texts for query in drawn(found, metric) if query.source.endswith(f"image id {image['id']}")]
        assert asked, metric
        assert all(category["name"] not in texts for texts in asked)
