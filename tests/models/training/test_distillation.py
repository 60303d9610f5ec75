from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional

from models.layers.bert import Bert, BertConfig
from models.synthetic.sentence_encoder import SentenceEncoder
from models.synthetic.wordnet import AttributePhrase, WordNet
from models.tokenizers import vocabulary_size, write_english_vocabulary
from models.training import distillation
from models.training.distillation import (
    Corpus,
    DistillationTask,
    DistilledWords,
    Students,
    Whitening,
    teacher_embeddings,
)
from models.training.loop import LoopConfig, Trainer
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
    embeddings = functional.normalize(skewed, dim=1)
    made = Whitening(embeddings, names=400)(embeddings)
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
    trainer = Trainer(task, loop, tmp_path)
    before = trainer.validate()
    trainer.run()
    after = trainer.validate()
    for figure in ("clip_name_cosine", "bert_name_cosine", "clip_sentence_cosine", "bert_sentence_cosine"):
        assert after[figure] > before[figure] + 0.3
    save_file(students.bert.state_dict(), tmp_path / "bert.safetensors")
    torch.save(vars(corpus), tmp_path / "corpus.pt")
    fresh = Students(vocabulary_size(tokenizer)).bert
    DistilledWords(tmp_path).fill(fresh, "bert.safetensors")
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


@pytest.fixture
def words(tmp_path: Path) -> DistilledWords:
    targets = functional.one_hot(torch.arange(3), distillation.DIMENSIONS).float()
    torch.save({"texts": ["dog", "cat", "puppy"], "names": 2, "targets": targets}, tmp_path / "corpus.pt")
    return DistilledWords(tmp_path)


def test_a_student_of_another_size_is_refused(words: DistilledWords, tmp_path: Path):
    save_file({"words": torch.zeros(2)}, tmp_path / "bert.safetensors")
    with pytest.raises(ValueError, match=r"bert\.safetensors does not fit the recipe's"):
        words.fill(Bert(BertConfig(10, 8, 1, 2, 8, 8, 1)), "bert.safetensors")


def test_distilled_words_have_an_embedding_of_every_text_and_names_among_them(words: DistilledWords, tmp_path: Path):
    assert words.names == ["dog", "cat"]
    assert [int(words.embeddings[text].argmax()) for text in ("dog", "cat", "puppy")] == [0, 1, 2]
    assert words.tokenizer == tmp_path / "tokenizer.json"
