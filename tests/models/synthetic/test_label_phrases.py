import random

import pytest

from models.synthetic.label_phrases import PhraseSampler, plural, vocabulary_texts
from models.synthetic.sprites import NamedObject

DOG = NamedObject("dog", ("dog",), ("puppy",), ("woof",))


def test_texts_are_labels_synonyms_keywords_and_plurals():
    sampler = PhraseSampler(["{}"], rng=random.Random(0), synonyms=0.3, keywords=0.3, plurals=0.2)
    assert {sampler.text(DOG) for _ in range(200)} == {"dog", "puppy", "woof", "dogs"}


def test_templates_are_filled():
    sampler = PhraseSampler(["a photo of a {}."], rng=random.Random(0), synonyms=0, keywords=0, plurals=0)
    assert sampler.text(DOG) == "a photo of a dog."


def test_an_object_without_other_names_keeps_its_label():
    sampler = PhraseSampler(["{}"], rng=random.Random(0), synonyms=1.0, keywords=0, plurals=0)
    assert sampler.text(NamedObject("key", ("key",))) == "key"


@pytest.mark.parametrize(
    ("one", "many"), [("dog", "dogs"), ("fox", "foxes"), ("scissors", "scissors"), ("torch", "torches")]
)
def test_plurals_are_regular(one: str, many: str):
    assert plural(one) == many


def test_the_vocabulary_covers_every_name_of_an_object():
    assert {"dog", "puppy", "woof"} <= set(vocabulary_texts([DOG]))
