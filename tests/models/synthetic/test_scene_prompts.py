import random
from typing import Any

import pytest
import torch

from models.data.grounding_prompts import PromptConfig
from models.synthetic.scene_prompts import (
    SceneContents,
    SceneLabel,
    ScenePromptSampler,
    by_place,
    by_size,
    contents,
    synonymous,
)
from models.synthetic.scenes import COLOUR_WORDS, SceneBatch
from models.synthetic.sprites import NamedObject, read_names

OBJECTS = read_names()[:40]
CONFIG = PromptConfig(fewest_labels=3, absent=0.0, asked=1.0, described=0.0)
RED, BLUE = COLOUR_WORDS.index("red"), COLOUR_WORDS.index("blue")
LEFT, RIGHT, SMALL_RIGHT = (0, 0, 20, 40), (80, 60, 100, 100), (90, 90, 96, 96)


@pytest.fixture
def rng() -> random.Random:
    return random.Random(0)


def sampler(objects: tuple[NamedObject, ...] = OBJECTS, **changes: Any) -> ScenePromptSampler:
    return ScenePromptSampler(objects, CONFIG.model_copy(update=changes))


def scene(*objects: int, boxes: Any = None, colours: Any = None) -> SceneContents:
    middle = [(40.0, 40.0, 60.0, 60.0)] * len(objects)
    return SceneContents(objects, boxes or middle, colours or [-1] * len(objects), (100, 100))


def named(labels: tuple[SceneLabel, ...]) -> list[int]:
    return [label.index for label in labels]


def test_prompts_name_what_is_present_and_something_that_is_not(rng: random.Random):
    ask = sampler()
    for _ in range(30):
        labels = ask.sample(scene(3, 5, 5), rng)
        assert {3, 5} <= set(named(labels))
        assert len(set(named(labels))) == len(labels)


def test_the_same_generator_gives_the_same_prompt():
    first, second = (sampler(described=0.5).sample(scene(3, 5, 5), random.Random(4)) for _ in range(2))
    assert first == second


def test_present_objects_stand_anywhere_in_a_prompt(rng: random.Random):
    ask = sampler()
    assert len({named(ask.sample(scene(3), rng)).index(3) for _ in range(50)}) > 3


def test_a_share_of_prompts_names_nothing_that_is_present(rng: random.Random):
    ask = sampler(absent=0.3)
    without = sum(not {3, 5} & set(named(ask.sample(scene(3, 5), rng))) for _ in range(300))
    assert 60 < without < 120


def test_prompts_of_one_label_ask_for_present_and_for_absent_objects(rng: random.Random):
    ask = sampler(absent=0.5, fewest_labels=1, most_labels=1)
    prompts = [named(ask.sample(scene(3, 5), rng)) for _ in range(100)]
    assert all(len(prompt) == 1 for prompt in prompts)
    assert 20 < sum(prompt[0] in (3, 5) for prompt in prompts) < 80


def test_prompts_use_other_words_than_labels_too(rng: random.Random):
    dog = next(index for index, item in enumerate(OBJECTS) if item.label == "dog")
    ask = sampler()
    texts = {label.text for _ in range(100) for label in ask.sample(scene(dog), rng) if label.index == dog}
    assert {"dog", "puppy", "a dog"} <= texts


def test_labels_come_with_the_rows_of_the_objects_they_name(rng: random.Random):
    rows = {label.index: label.rows for label in sampler().sample(scene(1, 2, 1), rng)}
    assert (rows.pop(1), rows.pop(2)) == ((0, 2), (1,))
    assert set(rows.values()) <= {()}


def test_objects_that_the_prompt_does_not_name_have_no_label(rng: random.Random):
    labels = sampler(fewest_labels=1, most_labels=1).sample(scene(1, 2), rng)
    assert [label.rows for label in labels] == [(0,) if labels[0].index == 1 else (1,)]
    assert not any(label.rows for label in sampler(absent=1.0).sample(scene(1), rng))


def test_the_contents_of_a_batch_are_those_of_each_picture():
    boxes = [torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.zeros(0, 4)]
    none = torch.zeros(0, dtype=torch.long)
    batch = SceneBatch(torch.zeros(2, 3, 6, 8), boxes, [torch.tensor([7]), none], [torch.tensor([RED]), none])
    first, second = contents(batch)
    assert (first.objects, first.boxes, first.colours, first.size) == ([7], [[1, 2, 3, 4]], [RED], (6, 8))
    assert second.objects == []


def test_a_colour_describes_what_is_painted_so_and_a_wrong_one_nothing(rng: random.Random):
    seen = scene(1, 1, boxes=[LEFT, RIGHT], colours=[RED, BLUE])
    for misdescribed in (0.0, 1.0):
        ask = sampler(described=1.0, misdescribed=misdescribed)
        labels = [label for _ in range(80) for label in ask.sample(seen, rng) if label.index == 1]
        coloured = [label for label in labels if set(label.text.split()) & set(COLOUR_WORDS)]
        assert len(coloured) > 5
        for label in coloured:
            said = {row for row, colour in enumerate(seen.colours) if COLOUR_WORDS[colour] in label.text.split()}
            assert set(label.rows) == said
            assert bool(said) == (misdescribed == 0.0)


def test_what_has_its_own_colours_is_not_described_by_colour(rng: random.Random):
    ask = sampler(described=1.0)
    texts = [label.text for _ in range(40) for label in ask.sample(scene(1, 1, colours=[RED, -1]), rng)]
    assert not any(set(text.split()) & set(COLOUR_WORDS) for text in texts)


def test_places_describe_what_stands_clearly_on_a_side():
    seen = scene(1, 1, boxes=[LEFT, RIGHT])
    assert ("the {} on the left", (0,)) in by_place((0, 1), seen)
    assert ("the {} at the bottom", (1,)) in by_place((0, 1), seen)
    assert by_place((0,), scene(1)) == []


def test_sizes_describe_the_smallest_and_the_largest_of_several_only():
    seen = scene(1, 1, boxes=[LEFT, SMALL_RIGHT])
    assert dict(by_size((0, 1), seen)) == {
        "the small {}": (1,),
        "the little {}": (1,),
        "the large {}": (0,),
        "the big {}": (0,),
    }
    assert by_size((0,), seen) == []


def test_names_that_one_another_may_mean_are_synonymous():
    cat, black, dog, mouse = (NamedObject(name, (name,)) for name in ("cat", "black cat", "dog", "computer mouse"))
    rat = NamedObject("rat", ("rat",), ("mouse",))
    assert synonymous([cat, black, dog, mouse, rat]) == [{1}, {0}, set(), {4}, {3}]


def test_absent_names_are_never_synonymous_with_what_is_there(rng: random.Random):
    objects = (NamedObject("cat", ("cat",)), NamedObject("black cat", ("black_cat",)), *OBJECTS[4:8])
    ask = sampler(objects, fewest_labels=9)
    assert all(1 not in named(ask.sample(scene(0), rng)) for _ in range(20))
    assert ask.absent([0, 0]) == (2, 3, 4, 5)


def test_absent_names_are_often_similar_ones(rng: random.Random):
    embeddings = torch.nn.functional.normalize(torch.randn(40, 30, generator=torch.Generator().manual_seed(0)), dim=1)
    near = set((embeddings @ embeddings.T)[3].topk(16).indices.tolist()) - {3}
    often, seldom = 0, 0
    for similar in (1.0, 0.0):
        config = CONFIG.model_copy(update={"similar": similar, "fewest_labels": 5, "most_labels": 5})
        ask = ScenePromptSampler(OBJECTS, config, embeddings=embeddings)
        hits = sum(len(near & set(named(ask.sample(scene(3), rng)))) for _ in range(40))
        often, seldom = (hits, seldom) if similar else (often, hits)
    assert often > 1.5 * seldom
