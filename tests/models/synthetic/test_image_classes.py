"""Classes of a classifier, told apart by their WordNet names, and those that only people wear."""

import json
from pathlib import Path

import pytest

from models.synthetic.image_classes import ALL_NAMES, CLEAN_NAMES, ImageClass, read_classes
from models.synthetic.wordnet import WordNet
from tests.models.synthetic.test_wordnet import INDEX, NOUNS

CLEAN = ["kangaroo", "crane bird", "construction crane", "suit"]
NAMES = {"0": "kangaroo", "1": "crane", "2": "crane", "3": "suit, suit of clothes"}


@pytest.fixture
def classes(tmp_path: Path) -> list[ImageClass]:
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "index.noun").write_text(INDEX)
    (tmp_path / CLEAN_NAMES).write_text(json.dumps(CLEAN))
    (tmp_path / ALL_NAMES).write_text(json.dumps(NAMES))
    return read_classes(tmp_path, WordNet(tmp_path))


def test_classes_keep_the_classifiers_order(classes: list[ImageClass]):
    assert [one.name for one in classes] == CLEAN


def test_a_class_is_read_with_its_kind_and_its_definition(classes: list[ImageClass]):
    assert classes[0].texts == ("kangaroo", "kangaroo, marsupial", "kangaroo: a herbivorous leaping marsupial")


def test_two_classes_of_one_wordnet_name_are_read_by_their_longer_names(classes: list[ImageClass]):
    assert classes[1].texts == ("crane bird",)
    assert classes[2].texts == ("construction crane",)
    assert classes[1].synonyms == ("crane",)


def test_clothes_are_read_with_the_person_in_them(classes: list[ImageClass]):
    assert classes[3].texts[-2:] == ("person with suit", "person")
    assert not any("person" in text for one in classes[:3] for text in one.texts)
