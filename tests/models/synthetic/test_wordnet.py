import random
from pathlib import Path

import pytest

from models.synthetic.wordnet import COLOURS, WordNet, attribute_phrases

# Lines as WordNet's files have them: offset, file, type, names, pointers, definition; index: offsets of all senses.
NOUNS = """  1 a licence
00000010 03 n 01 animal 0 000 | a living organism
00000020 05 n 01 marsupial 0 001 @ 00000010 n 0000 | mammals with a pouch; or so
00000030 05 n 02 kangaroo 0 Macropus 0 001 @ 00000020 n 0000 | a herbivorous leaping marsupial; "it leaps"
00000040 07 n 01 ring 0 000 | a characteristic sound
00000050 06 n 01 ring 0 001 @ 00000010 n 0000 | jewelry for a finger
00000060 13 n 01 ice_cream 0 000 | a frozen dessert
00000070 09 n 01 freedom 0 000 | the condition of being free
"""
INDEX = """  1 a licence
kangaroo n 1 1 @ 1 0 00000030
ring n 2 1 @ 2 0 00000040 00000050
ice_cream n 1 0 1 0 00000060
freedom n 1 0 1 0 00000070
"""


@pytest.fixture
def wordnet(tmp_path: Path) -> WordNet:
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "index.noun").write_text(INDEX)
    return WordNet(tmp_path)


def test_visible_nouns_are_names_of_physical_things(wordnet: WordNet):
    assert set(wordnet.visible_nouns()) == {"kangaroo", "ring", "ice cream"}


def test_everyday_nouns_are_single_words_whose_first_sense_is_a_thing(wordnet: WordNet):
    assert wordnet.everyday_nouns() == ["kangaroo"]


def test_a_word_is_glossed_by_its_hypernym_and_its_definition(wordnet: WordNet):
    assert wordnet.glosses("kangaroo") == ("kangaroo, marsupial", "kangaroo: a herbivorous leaping marsupial")
    assert wordnet.glosses("quux") == ()


def test_the_sense_that_is_a_thing_is_preferred(wordnet: WordNet):
    found = wordnet.synset("ring")
    assert found is not None
    assert found.gloss == "jewelry for a finger"


def test_attribute_phrases_contain_their_nouns_and_something_more():
    made = attribute_phrases(["dog", "car"], ["spoon"], 200, rng=random.Random(0))
    assert all(all(noun in item.text for noun in item.nouns) for item in made)
    assert all(item.text not in item.nouns for item in made)
    assert sum(item.text.split()[0] in COLOURS for item in made) > 30
    assert {len(item.nouns) for item in made} == {1, 2}
