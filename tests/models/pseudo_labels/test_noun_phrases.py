from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.pseudo_labels.noun_phrases import noun_phrases

WORDS = ["a", "the", "two", "red", "small", "dog", "traffic", "light", "riding", "stands", "near", "of", "and"]
SIGNS = [",", ".", "'", "its", "tree's", "3", "ÉCLAIR", "!"]


@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("a man riding a brown horse on the beach .", ["man", "brown horse", "beach"]),
        ("Two young girls in red shirts play with a small dog.", ["Two young girls", "red shirts", "small dog"]),
        ("The traffic light is turning green above the parked cars", ["traffic light", "parked cars"]),
        ("a bowl of fruit and a cup of coffee", ["bowl", "fruit", "cup", "coffee"]),
        ("a saxophone next to a rhinoceros", ["saxophone", "rhinoceros"]),
        ("A DOG, the cat", ["DOG", "cat"]),
        ("snowman, yo-yo and palm tree", ["snowman", "yo-yo", "palm tree"]),
        ("a dog and a dog", ["dog", "dog"]),
    ],
)
def test_phrases_are_nouns_with_what_describes_them(caption: str, phrases: list[str]):
    assert [phrase.text for phrase in noun_phrases(caption)] == phrases


def test_what_names_the_picture_is_no_phrase():
    assert [phrase.text for phrase in noun_phrases("a photo of a lion on the left, with a crab")] == ["lion", "crab"]


def test_an_owner_is_apart_from_what_it_owns():
    assert "balcony" in [phrase.text for phrase in noun_phrases("plants hang from the man's balcony")]


@pytest.mark.parametrize("caption", ["", "  ", "!!", "and of the", "running quickly"])
def test_a_caption_without_a_noun_has_no_phrase(caption: str):
    assert noun_phrases(caption) == ()


@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(WORDS + SIGNS), max_size=15).map(" ".join)))
def test_phrases_stand_where_they_say_and_apart(caption: str):
    phrases = noun_phrases(caption)
    assert all(caption[phrase.start : phrase.end] == phrase.text.strip() != "" for phrase in phrases)
    assert all(first.end < second.start for first, second in pairwise(phrases))
