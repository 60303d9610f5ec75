import json
from pathlib import Path

import pytest
from PIL import Image

from models.synthetic.evaluation_set import ANNOTATIONS, EvaluationSet, main, read_set


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("set")
    assert main([str(out), "--single", "4", "--scenes", "4", "--seed", "7"]) == 0
    return out


@pytest.fixture(scope="module")
def pictures(folder: Path) -> EvaluationSet:
    return read_set(folder)


def test_a_set_has_the_pictures_asked_for(pictures: EvaluationSet):
    assert len(pictures.single) == len(pictures.scenes) == 4
    with Image.open(pictures.scenes[0].file) as image:
        assert min(image.size) >= 320


def test_prompts_name_every_present_object_and_absent_ones(pictures: EvaluationSet):
    for picture in pictures.scenes:
        present = {thing.label for thing in picture.objects}
        assert present < set(picture.prompt)
        assert len(set(picture.prompt)) == len(picture.prompt)


def test_boxes_are_written_as_coco_does(folder: Path, pictures: EvaluationSet):
    row = next(row for row in json.loads((folder / ANNOTATIONS).read_text())["annotations"] if "bbox" in row)
    x, y, width, height = row["bbox"]
    assert pictures.scenes[0].objects[0].box == (x, y, x + width, y + height)


def test_every_object_is_in_its_scenes_caption(pictures: EvaluationSet):
    for picture in pictures.scenes:
        assert all(thing.label.split()[-1] in picture.caption for thing in picture.objects)
        true = [description for description in picture.descriptions if description.boxes]
        assert sorted(box for description in true for box in description.boxes) == sorted(
            thing.box for thing in picture.objects
        )
        assert all(description.text in picture.caption for description in true)
