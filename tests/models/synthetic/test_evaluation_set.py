"""Synthetic evaluation sets as files: prompts, boxes, captions and phrases."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from models.synthetic.evaluation_set import ANNOTATIONS, main, scene_caption, swap_colour
from models.synthetic.scene_prompts import SceneContents
from models.synthetic.scenes import COLOUR_WORDS
from models.synthetic.sprites import NamedObject
from tests.models.synthetic.photographs import HELD_OUT, write_photographs

RED, BLUE = COLOUR_WORDS.index("red"), COLOUR_WORDS.index("blue")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("set")
    assert main([str(out), "--single", "4", "--scenes", "4", "--seed", "7"]) == 0
    return out


@pytest.fixture(scope="module")
def data(folder: Path) -> dict[str, Any]:
    return json.loads((folder / ANNOTATIONS).read_text())


@pytest.fixture(scope="module")
def scenes(data: dict[str, Any]) -> list[tuple[dict[str, Any], dict[int, str]]]:
    """Each scene's entry, and the labels of its objects by annotation id."""
    names = {category["id"]: category["name"] for category in data["categories"]}
    return [
        (image, {row["id"]: names[row["category_id"]] for row in data["annotations"] if row["image_id"] == image["id"]})
        for image in data["images"]
        if "prompt" in image
    ]


def test_a_set_has_the_images_asked_for(folder: Path, data: dict[str, Any], scenes: list):
    assert (len(data["images"]), len(scenes)) == (8, 4)
    for image in data["images"]:
        with Image.open(folder / image["file_name"]) as file:
            assert file.size == (image["width"], image["height"])
            assert min(file.size) >= 320


def test_set_of_photographs_shows_what_is_held_out(tmp_path: Path):
    pack = write_photographs(tmp_path / "photographs.zip")
    assert main([str(tmp_path), "--photographs", str(pack), "--single", "3", "--scenes", "5", "--seed", "7"]) == 0
    data = json.loads((tmp_path / ANNOTATIONS).read_text())
    assert {category["name"] for category in data["categories"]} == set(HELD_OUT)
    assert len(data["images"]) == 8
    boxed = [row for row in data["annotations"] if "bbox" in row]
    assert boxed
    assert {row["image_id"] for row in data["annotations"] if "bbox" not in row} == {0, 1, 2}


def test_prompts_name_every_present_object_and_absent_ones(scenes: list):
    for image, labels in scenes:
        assert set(labels.values()) < set(image["prompt"])
        assert len(set(image["prompt"])) == len(image["prompt"])


def test_boxes_are_x_y_width_height_inside_their_image(data: dict[str, Any], scenes: list):
    sizes = {image["id"]: (image["width"], image["height"]) for image, _ in scenes}
    boxed = [row for row in data["annotations"] if row["image_id"] in sizes]
    assert boxed
    for row in boxed:
        (x, y, width, height), size = row["bbox"], sizes[row["image_id"]]
        assert 0 <= x < x + width <= size[0]
        assert 0 <= y < y + height <= size[1]
        assert row["area"] == width * height


def test_true_phrases_refer_to_every_object_once_and_untrue_ones_to_none(scenes: list):
    for image, labels in scenes:
        assert all(label.split()[-1] in image["caption"] for label in labels.values())
        true = [phrase for phrase in image["phrases"] if phrase["annotations"]]
        assert sorted(index for phrase in true for index in phrase["annotations"]) == sorted(labels)
        assert all(phrase["text"] in image["caption"] for phrase in true)
        assert all(phrase["text"] not in image["caption"] for phrase in image["phrases"] if phrase not in true)


def test_a_caption_names_every_object_once_with_number_colour_and_location():
    boxes = [(0, 0, 20, 40), (80, 60, 100, 100), (90, 90, 96, 96)]
    shown = SceneContents((0, 1, 1), boxes, [RED, -1, BLUE], (100, 100))
    objects = (NamedObject("apple", ("apple",)), NamedObject("dog", ("dog",)))
    captions = [scene_caption(shown, objects, random.Random(seed)) for seed in range(10)]
    for text, spans in captions:
        phrases = {rows: text[start:end] for start, end, rows in spans}
        assert phrases[(0,)].startswith("a red apple")
        assert phrases[(1, 2)].startswith("two dogs")
        assert " and " in text
    assert any("a red apple on the left" in text for text, _ in captions)
    assert scene_caption(SceneContents((0,), boxes[:1], [-1], (100, 100)), objects, random.Random(0))[0].startswith(
        "an apple"
    )


def test_a_swapped_colour_is_another_one():
    wrong = swap_colour("a red apple on the left", random.Random(0))
    assert wrong is not None
    assert wrong.split()[1] in set(COLOUR_WORDS) - {"red"}
    assert swap_colour("a dog", random.Random(0)) is None
