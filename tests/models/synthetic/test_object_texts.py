import random

import pytest
import torch
from torch.nn import functional

from models.synthetic.label_phrases import vocabulary_texts
from models.synthetic.object_texts import NameEmbeddings, ObjectTexts
from models.synthetic.sprites import NamedObject
from models.tokenizers import text_rules, write_vocabulary
from server.contract.text import SentenceTokenizer

DOG, CAT = NamedObject("dog", ("dog",), ("puppy", "unread")), NamedObject("cat", ("cat",))
NAMES = ("dog", "puppy", "cat")
EMBEDDINGS = {name: functional.one_hot(torch.tensor(place), 4).float() for place, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> SentenceTokenizer:
    file = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    write_vocabulary(vocabulary_texts((DOG, CAT)), file)
    return SentenceTokenizer(file, text_rules(file, "sentence", max_tokens=77))


def test_an_object_has_the_embedding_of_its_label_or_of_a_synonym():
    embeddings = NameEmbeddings(EMBEDDINGS, (DOG, CAT))
    assert torch.equal(embeddings.labels, torch.stack([EMBEDDINGS["dog"], EMBEDDINGS["cat"]]))
    rng = random.Random(0)
    drawn = [embeddings.sample(rng) for _ in range(60)]
    assert {int(rows[0].argmax()) for rows in drawn} == {0, 1}
    assert all(torch.equal(rows[1], EMBEDDINGS["cat"]) for rows in drawn)


def test_an_object_without_an_embedding_is_named():
    with pytest.raises(ValueError, match="zebra"):
        NameEmbeddings({}, (NamedObject("zebra", ("zebra",)),))


def test_texts_are_sentences_about_each_object_in_order(tokenizer: SentenceTokenizer):
    texts = ObjectTexts((DOG, CAT), tokenizer, None)
    assert texts.labels.tolist() == tokenizer.encode(["dog", "cat"]).tolist()
    assert texts.embeddings(random.Random(0)) is None
    first, again, other = (texts.input_ids(random.Random(seed)) for seed in (0, 0, 3))
    assert torch.equal(first, again)
    assert first.shape[0] == 2
    assert first.tolist() != other.tolist()


def test_known_embeddings_are_chosen_in_place_of_texts(tokenizer: SentenceTokenizer):
    known = ObjectTexts((DOG, CAT), tokenizer, EMBEDDINGS).embeddings(random.Random(0))
    assert known is not None
    assert known.shape == (2, 4)
