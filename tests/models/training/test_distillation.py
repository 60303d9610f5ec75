import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn import functional

from models.layers.bert import Bert, BertConfig
from models.synthetic.sentence_encoder import LAYER_NAMES, NAMES, Teacher
from models.synthetic.vocabulary import vocabulary_size, write_english_vocabulary
from models.synthetic.wordnet import Description, WordNet
from models.tokenizers import bert_wordpiece
from models.training import distillation
from models.training.distillation import Corpus, DistillationTask, DistilledWords, Students, even_out, knowledge
from models.training.loop import LoopConfig, Trainer
from tests.models.synthetic.test_wordnet import INDEX, NOUNS

WORDS = ["dog", "cat", "red", "car", "kangaroo", "spoon", "a", "photo", "of"]


def their_name(ours: str) -> str:
    module, _, parameter = ours.rpartition(".")
    if module in NAMES:
        return f"{NAMES[module]}.{parameter}"
    _, layer, rest = module.split(".", 2)
    return f"encoder.layer.{layer}.{LAYER_NAMES[rest]}.{parameter}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small sentence encoder with random weights, stored as all-MiniLM-L6-v2 is."""
    folder = tmp_path_factory.mktemp("teacher")
    tokenizer = bert_wordpiece()
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = {
        "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 64, "type_vocab_size": 2, "layer_norm_eps": 1e-12,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(sizes))
    torch.manual_seed(0)
    bert = Bert(BertConfig(sizes["vocab_size"], 32, 2, 4, 48, 64, 2))
    tensors = {their_name(name): value for name, value in bert.state_dict().items()}
    save_file({**tensors, "pooler.dense.weight": torch.zeros(2, 2)}, folder / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def teacher(folder: Path) -> Teacher:
    return Teacher(folder)


def test_a_sentence_is_the_mean_of_its_tokens(teacher: Teacher, folder: Path):
    ids = torch.tensor([Tokenizer.from_file(str(folder / "tokenizer.json")).encode("a red dog").ids])
    length = ids.shape[1]
    everything = torch.ones(1, length, length, dtype=torch.bool)
    with torch.no_grad():
        states = teacher.bert(ids, torch.arange(length)[None], everything)
    assert torch.allclose(teacher.encode(["a red dog"]), functional.normalize(states.mean(1), dim=1), atol=1e-6)


def test_an_embedding_does_not_depend_on_the_other_texts(teacher: Teacher):
    together = teacher.encode(["dog", "a photo of a large red kangaroo", "cat"])
    assert torch.allclose(together[2], teacher.encode(["cat"])[0], atol=1e-6)


def test_words_are_read_with_their_meaning_and_descriptions_keep_their_difference(teacher: Teacher, tmp_path: Path):
    (tmp_path / "data.noun").write_text(NOUNS)
    (tmp_path / "index.noun").write_text(INDEX)
    made = [Description("red kangaroo", ("kangaroo",))]
    places = knowledge(["kangaroo", "dog", "quux"], made, WordNet(tmp_path), {"dog": "dog, pet"}, teacher)
    read = teacher.encode(
        ["kangaroo", "kangaroo, marsupial", "kangaroo: a herbivorous leaping marsupial", "dog", "dog, pet", "quux"]
    )
    expected = torch.stack([read[:3].mean(0), read[3:5].mean(0), read[5]])
    assert torch.allclose(places[:3], expected, atol=1e-6)
    assert torch.allclose(places[3], teacher.encode(["red kangaroo"])[0] + expected[0] - read[0], atol=1e-6)


def test_evened_embeddings_are_centred_and_of_unit_length():
    skewed = torch.randn(500, 256, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 256) + 5
    made = even_out(functional.normalize(skewed, dim=1), names=400)
    assert torch.allclose(made.norm(dim=1), torch.ones(500), atol=1e-5)
    assert made[:400].mean(0).norm() < 0.1


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    write_english_vocabulary(WORDS, ["marsupial", "wallaby"], file, size=400)
    return file


def test_an_english_vocabulary_has_what_is_needed_whole_and_spells_the_rest(tokenizer: Path):
    read = Tokenizer.from_file(str(tokenizer))
    assert read.encode("red kangaroo").tokens == ["red", "kangaroo"]
    assert "[UNK]" not in read.encode("quixotic").tokens
    assert vocabulary_size(tokenizer) <= 400


def test_a_vocabulary_too_small_for_what_is_needed_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="no room"):
        write_english_vocabulary(WORDS, ["marsupial"], tmp_path / "tokenizer.json", size=50)


def test_students_come_near_their_teacher(tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(distillation, "SENTENCES", ("a photo of a {}",))
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
