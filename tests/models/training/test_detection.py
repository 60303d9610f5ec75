import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.tokenizers import text_rules
from models.training.curriculum import Curriculum
from models.training.detection import Asker, DetectionConfig, named_objects
from models.training.phrases import vocabulary_texts
from models.training.scenes import SceneConfig
from models.training.sprites import read_names
from models.training.vocabulary import vocabulary_size, write_vocabulary
from server.contract.manifest import Buckets, DetectionRules, Preprocessing
from server.contract.text import PromptTokenizer

OBJECTS = read_names()[:40]
CONFIG = DetectionConfig(
    batch=1,
    preprocessing=Preprocessing(resize="shorter_longer", shorter=64, longer=96, mean=(0, 0, 0), std=(1, 1, 1)),
    buckets=Buckets(pixel_multiple=32),
    curriculum=Curriculum(SceneConfig()),
    rules=DetectionRules(box_threshold=0.3, text_threshold=0.3),
    fewest_labels=3,
    absent=0.0,
    asked=1.0,
)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    file = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    write_vocabulary(vocabulary_texts(OBJECTS), file)
    return PromptTokenizer(file, text_rules(file, "phrases", max_tokens=77))


def asker(prompts: PromptTokenizer, *, labels_only: bool = True, **changes: Any) -> Asker:
    return Asker(OBJECTS, prompts, replace(CONFIG, **changes), dice=random.Random(0), labels_only=labels_only)


def test_prompts_name_what_is_present_and_something_that_is_not(prompts: PromptTokenizer):
    ask = asker(prompts)
    for _ in range(30):
        question = ask.ask([3, 5, 5])
        assert {3, 5} <= set(question.named)
        assert len(set(question.named)) == len(question.named) == len(question.prompt.labels)


def test_present_objects_stand_anywhere_in_a_prompt(prompts: PromptTokenizer):
    ask = asker(prompts)
    assert len({ask.ask([3]).named.index(3) for _ in range(50)}) > 3


def test_a_share_of_prompts_names_nothing_that_is_present(prompts: PromptTokenizer):
    ask = asker(prompts, absent=0.3)
    without = sum(not {3, 5} & set(ask.ask([3, 5]).named) for _ in range(300))
    assert 60 < without < 120


def test_prompts_of_one_label_ask_for_present_and_for_absent_objects(prompts: PromptTokenizer):
    ask = asker(prompts, absent=0.5, fewest_labels=1, most_labels=1)
    questions = [ask.ask([3, 5]) for _ in range(100)]
    assert all(len(question.named) == 1 for question in questions)
    assert 20 < sum(question.named[0] in (3, 5) for question in questions) < 80


def test_prompts_use_other_words_than_labels_too(prompts: PromptTokenizer):
    dog = next(index for index, item in enumerate(OBJECTS) if item.label == "dog")
    ask = asker(prompts, labels_only=False)
    questions = [ask.ask([dog]) for _ in range(100)]
    texts = {question.prompt.labels[question.named.index(dog)].text for question in questions}
    assert {"dog", "puppy", "a dog"} <= texts


def test_named_objects_come_with_the_tokens_of_their_own_label(prompts: PromptTokenizer):
    ask = asker(prompts)
    question = ask.ask([1, 2])
    rows, positive = named_objects(question, torch.tensor([1, 2]), len(question.prompt) + 3)
    assert rows.tolist() == [0, 1]
    for row, index in enumerate((1, 2)):
        owners = question.prompt.token_label[positive[row, : len(question.prompt)].numpy()]
        assert set(owners.tolist()) == {question.named.index(index)}
    assert not positive[:, -3:].any()


def test_objects_that_the_prompt_does_not_name_are_left_out(prompts: PromptTokenizer):
    question = asker(prompts).ask([1])
    absent = next(index for index in range(len(OBJECTS)) if index not in question.named)
    rows, positive = named_objects(question, torch.tensor([absent, 1]), len(question.prompt))
    assert rows.tolist() == [1]
    assert positive.shape == (1, len(question.prompt))
    assert named_objects(question, torch.tensor([absent]), len(question.prompt))[1].shape == (0, len(question.prompt))


def test_trained_words_are_whole_and_others_are_spelt(tmp_path: Path, prompts: PromptTokenizer):
    file = tmp_path / "tokenizer.json"
    write_vocabulary(["zebra"], file)
    tokens = PromptTokenizer(file, text_rules(file, "phrases", max_tokens=77))
    assert len(tokens.from_labels(["zebra"])) == 4
    assert len(tokens.from_labels(["quux"])) == 3 + len("quux")
    assert text_rules(file, "sentence", max_tokens=77).end_id == vocabulary_size(file) - 1
