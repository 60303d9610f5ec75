import random

import pytest
import torch
from torch.nn import functional

from models.synthetic.label_phrases import NameEmbeddings, ObjectTexts, PhraseSampler, plural, vocabulary_texts
from models.synthetic.sprites import NamedObject
from models.tokenizers import text_rules, write_vocabulary
from server.contract.text import SentenceTokenizer

DOG = NamedObject("dog", ("dog",), ("puppy",), ("woof",))
HOUND, CAT = NamedObject("dog", ("dog",), ("puppy", "unread")), NamedObject("cat", ("cat",))
NAMES = ("dog", "puppy", "cat")
EMBEDDINGS = {name: functional.one_hot(torch.tensor(place), 4).float() for place, name in enumerate(NAMES)}


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


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SentenceTokenizer:
    file = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    write_vocabulary(vocabulary_texts((HOUND, CAT)), file)
    return SentenceTokenizer(file, text_rules(file, "sentence", max_tokens=77))


def test_an_object_has_the_embedding_of_its_label_or_of_a_synonym():
    embeddings = NameEmbeddings(EMBEDDINGS, (HOUND, CAT))
    assert torch.equal(embeddings.labels, torch.stack([EMBEDDINGS["dog"], EMBEDDINGS["cat"]]))
    rng = random.Random(0)
    drawn = [embeddings.sample(rng) for _ in range(60)]
    assert {int(rows[0].argmax()) for rows in drawn} == {0, 1}
    assert all(torch.equal(rows[1], EMBEDDINGS["cat"]) for rows in drawn)


def test_an_object_without_an_embedding_is_named():
    with pytest.raises(ValueError, match="zebra"):
        NameEmbeddings({}, (NamedObject("zebra", ("zebra",)),))


def test_texts_are_sentences_about_each_object_in_order(tokenizer: SentenceTokenizer):
    texts = ObjectTexts((HOUND, CAT), tokenizer, None)
    assert texts.labels.tolist() == tokenizer.encode(["dog", "cat"]).tolist()
    assert texts.embeddings(random.Random(0)) is None
    first, again, other = (texts.input_ids(random.Random(seed)) for seed in (0, 0, 3))
    assert torch.equal(first, again)
    assert first.shape[0] == 2
    assert first.tolist() != other.tolist()


def test_known_embeddings_are_chosen_in_place_of_texts(tokenizer: SentenceTokenizer):
    known = ObjectTexts((HOUND, CAT), tokenizer, EMBEDDINGS).embeddings(random.Random(0))
    assert known is not None
    assert known.shape == (2, 4)
