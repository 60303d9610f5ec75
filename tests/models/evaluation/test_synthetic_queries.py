"""Queries of generated sets, as models.synthetic.evaluation_set writes them."""

import json
from pathlib import Path

import pytest
from PIL import Image

from models.data.images import DataError
from models.evaluation.metrics import EvaluationSet, Query
from models.evaluation.synthetic_queries import open_generated


def drawn(data: EvaluationSet, metric: str) -> list[Query]:
    return list(data.queries[metric].draw())


def generated(folder: Path) -> Path:
    """An image of one object and a scene with a true and an untrue phrase, as evaluation_set.py writes them."""
    folder.mkdir()
    for number in range(2):
        Image.new("RGB", (80, 60)).save(folder / f"000{number}.png")
    images = [{"id": number, "height": 60, "width": 80, "file_name": f"000{number}.png"} for number in range(2)]
    images[1] |= {
        "prompt": ["cat", "dog", "owl"],
        "caption": "a red dog",
        "phrases": [{"text": "red dog", "annotations": [1]}, {"text": "blue dog", "annotations": []}],
    }
    rows = [
        {"id": 0, "image_id": 0, "category_id": 2},
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30], "area": 600, "iscrowd": 0},
    ]
    names = [{"id": place, "name": name} for place, name in enumerate(("cat", "dog", "owl"))]
    data = {"images": images, "annotations": rows, "categories": names}
    (folder / "annotations.json").write_text(json.dumps(data))
    return folder


def test_a_generated_set_has_queries_of_every_metric(tmp_path: Path):
    found = open_generated(generated(tmp_path / "set"))
    assert {name: one.count for name, one in found.queries.items()} == dict.fromkeys(
        ("classification", "retrieval", "detection", "absent", "grounding", "untrue"), 1
    )
    (detection,), (grounding,) = drawn(found, "detection"), drawn(found, "grounding")
    assert detection.texts == ("cat", "dog", "owl")
    assert [(box.label, box.box) for box in detection.target[1]] == [(1, (10, 10, 30, 40))]
    assert (grounding.texts, grounding.target[0].tolist()) == (("red dog",), [[10, 10, 30, 40]])
    assert [one.texts for one in drawn(found, "absent")] == [("cat", "owl")]
    assert [one.texts for one in drawn(found, "untrue")] == [("blue dog",)]
    assert [one.texts for one in drawn(found, "retrieval")] == [("a photo of an owl",)]
    assert [one.target for one in drawn(found, "classification")] == [2]


@pytest.mark.parametrize(
    ("image", "change", "message"),
    [
        (1, {"prompt": ["bird"]}, r"image id 1: its prompt has \['bird'\]"),
        (
            1,
            {"phrases": [{"text": "a dog", "annotations": [7]}]},
            r"image id 1: the phrase 'a dog' refers to unknown annotations \[7\]",
        ),
        (0, {"id": 5}, "annotation id 0: its image id 0 is not among the images"),
    ],
)
def test_faults_of_a_generated_set_are_named(tmp_path: Path, image: int, change: dict, message: str):
    file = generated(tmp_path / "set") / "annotations.json"
    data = json.loads(file.read_text())
    data["images"][image] |= change
    file.write_text(json.dumps(data))
    with pytest.raises(DataError, match=message):
        open_generated(tmp_path / "set")


def test_a_limit_is_of_single_objects_and_of_scenes(tmp_path: Path):
    found = open_generated(generated(tmp_path / "set"), limit=0)
    assert found.queries == {}
