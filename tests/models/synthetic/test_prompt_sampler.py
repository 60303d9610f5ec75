import random
from dataclasses import replace
from typing import Any

import pytest
import torch

from models.synthetic.label_phrases import vocabulary_texts
from models.synthetic.prompt_sampler import Asker, AskingConfig, Shown, akin, by_place, by_size
from models.synthetic.scenes import COLOUR_WORDS
from models.synthetic.sprites import NamedObject, read_names
from models.tokenizers import text_rules, write_vocabulary
from server.contract.text import PromptTokenizer

OBJECTS = read_names()[:40]
CONFIG = AskingConfig(fewest_labels=3, absent=0.0, asked=1.0, described=0.0)
RED, BLUE = COLOUR_WORDS.index("red"), COLOUR_WORDS.index("blue")
LEFT, RIGHT, SMALL_RIGHT = (0, 0, 20, 40), (80, 60, 100, 100), (90, 90, 96, 96)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> PromptTokenizer:
    file = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    write_vocabulary([*vocabulary_texts(OBJECTS), *COLOUR_WORDS, "on left right at top bottom small large"], file)
    return PromptTokenizer(file, text_rules(file, "phrases", max_tokens=77))


def asker(prompts: PromptTokenizer, *, labels_only: bool = True, **changes: Any) -> Asker:
    return Asker(OBJECTS, prompts, replace(CONFIG, **changes), rng=random.Random(0), labels_only=labels_only)


def shown(*objects: int, boxes: Any = None, colours: Any = None) -> Shown:
    middle = [(40.0, 40.0, 60.0, 60.0)] * len(objects)
    return Shown(objects, boxes or middle, colours or [-1] * len(objects), (100, 100))


def test_prompts_name_what_is_present_and_something_that_is_not(prompts: PromptTokenizer):
    ask = asker(prompts)
    for _ in range(30):
        question = ask.ask(shown(3, 5, 5))
        assert {3, 5} <= set(question.named)
        assert len(set(question.named)) == len(question.named) == len(question.prompt.labels)


def test_present_objects_stand_anywhere_in_a_prompt(prompts: PromptTokenizer):
    ask = asker(prompts)
    assert len({ask.ask(shown(3)).named.index(3) for _ in range(50)}) > 3


def test_a_share_of_prompts_names_nothing_that_is_present(prompts: PromptTokenizer):
    ask = asker(prompts, absent=0.3)
    without = sum(not {3, 5} & set(ask.ask(shown(3, 5)).named) for _ in range(300))
    assert 60 < without < 120


def test_prompts_of_one_label_ask_for_present_and_for_absent_objects(prompts: PromptTokenizer):
    ask = asker(prompts, absent=0.5, fewest_labels=1, most_labels=1)
    questions = [ask.ask(shown(3, 5)) for _ in range(100)]
    assert all(len(question.named) == 1 for question in questions)
    assert 20 < sum(question.named[0] in (3, 5) for question in questions) < 80


def test_prompts_use_other_words_than_labels_too(prompts: PromptTokenizer):
    dog = next(index for index, item in enumerate(OBJECTS) if item.label == "dog")
    ask = asker(prompts, labels_only=False)
    texts = {label.text for _ in range(100) for label in ask.ask(shown(dog)).labels if label.index == dog}
    assert {"dog", "puppy", "a dog"} <= texts


def test_described_objects_come_with_the_tokens_of_their_own_label(prompts: PromptTokenizer):
    question = asker(prompts).ask(shown(1, 2, 1))
    rows, positive = question.answers(len(question.prompt) + 3)
    assert rows.tolist() == [0, 1, 2]
    for row, index in enumerate((1, 2, 1)):
        owners = question.prompt.token_label[positive[row, : len(question.prompt)].numpy()]
        assert set(owners.tolist()) == {question.named.index(index)}
    assert not positive[:, -3:].any()


def test_objects_that_the_prompt_does_not_name_are_left_out(prompts: PromptTokenizer):
    question = asker(prompts, fewest_labels=1, most_labels=1).ask(shown(1, 2))
    rows, positive = question.answers(len(question.prompt))
    assert rows.tolist() == [0 if question.named == (1,) else 1]
    assert positive.shape == (1, len(question.prompt))
    nothing = asker(prompts, absent=1.0).ask(shown(1))
    assert nothing.answers(len(nothing.prompt))[1].shape == (0, len(nothing.prompt))


def test_a_colour_describes_what_is_painted_so_and_a_wrong_one_nothing(prompts: PromptTokenizer):
    scene = shown(1, 1, boxes=[LEFT, RIGHT], colours=[RED, BLUE])
    for misdescribed in (0.0, 1.0):
        ask = asker(prompts, labels_only=False, described=1.0, misdescribed=misdescribed)
        labels = [label for _ in range(80) for label in ask.ask(scene).labels if label.index == 1]
        coloured = [label for label in labels if set(label.text.split()) & set(COLOUR_WORDS)]
        assert len(coloured) > 5
        for label in coloured:
            said = {row for row, colour in enumerate(scene.colours) if COLOUR_WORDS[colour] in label.text.split()}
            assert set(label.rows) == said
            assert bool(said) == (misdescribed == 0.0)


def test_what_has_its_own_colours_is_not_described_by_colour(prompts: PromptTokenizer):
    ask = asker(prompts, labels_only=False, described=1.0)
    texts = [label.text for _ in range(40) for label in ask.ask(shown(1, 1, colours=[RED, -1])).labels]
    assert not any(set(text.split()) & set(COLOUR_WORDS) for text in texts)


def test_places_describe_what_stands_clearly_on_a_side():
    scene = shown(1, 1, boxes=[LEFT, RIGHT])
    assert ("the {} on the left", (0,)) in by_place((0, 1), scene)
    assert ("the {} at the bottom", (1,)) in by_place((0, 1), scene)
    assert by_place((0,), shown(1)) == []


def test_sizes_describe_the_smallest_and_the_largest_of_several_only():
    scene = shown(1, 1, boxes=[LEFT, SMALL_RIGHT])
    assert dict(by_size((0, 1), scene)) == {
        "the small {}": (1,),
        "the little {}": (1,),
        "the large {}": (0,),
        "the big {}": (0,),
    }
    assert by_size((0,), scene) == []


def test_names_that_one_another_may_mean_are_akin():
    cat, black, dog, mouse = (NamedObject(name, (name,)) for name in ("cat", "black cat", "dog", "computer mouse"))
    rat = NamedObject("rat", ("rat",), ("mouse",))
    assert akin([cat, black, dog, mouse, rat]) == [{1}, {0}, set(), {4}, {3}]


def test_absent_names_are_never_akin_to_what_is_there(prompts: PromptTokenizer):
    objects = (NamedObject("cat", ("cat",)), NamedObject("black cat", ("black_cat",)), *OBJECTS[4:8])
    ask = Asker(objects, prompts, replace(CONFIG, fewest_labels=9), rng=random.Random(0), labels_only=True)
    assert all(1 not in ask.ask(shown(0)).named for _ in range(20))


def test_absent_names_are_often_similar_ones(prompts: PromptTokenizer):
    places = torch.nn.functional.normalize(torch.randn(40, 30, generator=torch.Generator().manual_seed(0)), dim=1)
    near = set((places @ places.T)[3].topk(16).indices.tolist()) - {3}
    often, seldom = 0, 0
    for similar in (1.0, 0.0):
        config = replace(CONFIG, similar=similar, fewest_labels=5, most_labels=5)
        ask = Asker(OBJECTS, prompts, config, rng=random.Random(0), labels_only=True, places=places)
        hits = sum(len(near & set(ask.ask(shown(3)).named)) for _ in range(40))
        often, seldom = (hits, seldom) if similar else (often, hits)
    assert often > 1.5 * seldom
