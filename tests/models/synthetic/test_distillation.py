import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from models.layers.bert import Bert, BertConfig
from models.synthetic import distillation
from models.synthetic.distillation import Corpus, DistillationTask, Students, load_student, teacher_embeddings, whiten
from models.synthetic.image_text_task import Places
from models.synthetic.sentence_encoder import SentenceEncoder
from models.synthetic.sprites import NamedObject
from models.synthetic.wordnet import AttributePhrase, WordNet
from models.tokenizers import vocabulary_size, write_english_vocabulary
from models.training.loop import LoopConfig, SelfFedTask, Trainer
from tests.models.synthetic.test_sentence_encoder import write_sentence_encoder
from tests.models.synthetic.test_wordnet import INDEX, NOUNS

WORDS = ["dog", "cat", "red", "car", "kangaroo", "spoon", "a", "photo", "of"]


def test_words_are_averaged_with_their_glosses_and_phrases_keep_their_difference(tmp_path: Path):
    teacher = SentenceEncoder(write_sentence_encoder(tmp_path))
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "index.noun").write_text(INDEX)
    phrases = [AttributePhrase("red kangaroo", ("kangaroo",))]
    found = teacher_embeddings(["kangaroo", "dog", "quux"], phrases, WordNet(tmp_path), {"dog": "dog, pet"}, teacher)
    encoded = teacher.encode(
        ["kangaroo", "kangaroo, marsupial", "kangaroo: a herbivorous leaping marsupial", "dog", "dog, pet", "quux"]
    )
    expected = torch.stack([encoded[:3].mean(0), encoded[3:5].mean(0), encoded[5]])
    assert torch.allclose(found[:3], expected, atol=1e-6)
    assert torch.allclose(found[3], teacher.encode(["red kangaroo"])[0] + expected[0] - encoded[0], atol=1e-6)


def test_whitened_embeddings_are_centred_and_of_unit_length():
    skewed = torch.randn(500, 256, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 256) + 5
    made = whiten(functional.normalize(skewed, dim=1), names=400)
    assert torch.allclose(made.norm(dim=1), torch.ones(500), atol=1e-5)
    assert made[:400].mean(0).norm() < 0.1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    write_english_vocabulary(WORDS, ["marsupial", "wallaby"], file, size=400)
    return file


def test_students_come_near_their_teacher(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distillation, "SENTENCE_TEMPLATES", ("a photo of a {}",))
    places = torch.randn(6, distillation.DIMENSIONS, generator=torch.Generator().manual_seed(1))
    corpus = Corpus(WORDS[:6], 6, functional.normalize(places, dim=1))
    torch.manual_seed(0)
    students = Students(vocabulary_size(tokenizer))
    task = DistillationTask(students, corpus, tokenizer, batch=8, seed=0)
    loop = LoopConfig(steps=25, learning_rate=4e-3, warmup_steps=5, average=0.5, log_every=100, validate_every=100)
    trainer = Trainer(SelfFedTask(task), loop, tmp_path)
    before = trainer.validate()
    trainer.run()
    after = trainer.validate()
    for figure in ("clip_name_cosine", "bert_name_cosine", "clip_sentence_cosine", "bert_sentence_cosine"):
        assert after[figure] > before[figure] + 0.3
    save_file(students.bert.state_dict(), tmp_path / "bert.safetensors")
    fresh = Students(vocabulary_size(tokenizer)).bert
    load_student(tmp_path, "bert.safetensors", fresh)
    stored = load_file(tmp_path / "bert.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in fresh.state_dict().items())


def test_padding_changes_no_student(tokenizer: Path):
    torch.manual_seed(0)
    task = DistillationTask(
        Students(vocabulary_size(tokenizer)).eval(),
        Corpus(WORDS[:2], 2, functional.normalize(torch.randn(2, distillation.DIMENSIONS), dim=1)),
        tokenizer,
        batch=2,
        seed=0,
    )
    with torch.no_grad():
        alone = task._encode(task.model, ["dog"])
        beside = task._encode(task.model, ["dog", "a photo of a red kangaroo"])
    for one, two in zip(alone, beside, strict=True):
        assert torch.allclose(one[0], two[0], atol=1e-5)


def test_a_student_of_another_size_is_refused(tmp_path: Path):
    save_file({"words": torch.zeros(2)}, tmp_path / "bert.safetensors")
    with pytest.raises(ValueError, match=r"bert\.safetensors is not the recipe's"):
        load_student(tmp_path, "bert.safetensors", Bert(BertConfig(10, 8, 1, 2, 8, 8, 1)))


def test_objects_lie_where_their_label_or_a_synonym_does():
    words = {
        name: functional.one_hot(torch.tensor(place), 4).float() for place, name in enumerate(("dog", "puppy", "cat"))
    }
    places = Places(words, [NamedObject("dog", ("dog",), ("puppy", "unread")), NamedObject("cat", ("cat",))])
    assert torch.equal(places.labels, torch.stack([words["dog"], words["cat"]]))
    rng = random.Random(0)
    drawn = [places.draw(rng) for _ in range(60)]
    assert {int(rows[0].argmax()) for rows in drawn} == {0, 1}
    assert all(torch.equal(rows[1], words["cat"]) for rows in drawn)


def test_an_object_without_a_place_is_named():
    with pytest.raises(ValueError, match="zebra"):
        Places({}, [NamedObject("zebra", ("zebra",))])
