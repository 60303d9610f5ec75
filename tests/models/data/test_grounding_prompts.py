from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.data.entries import box_array
from models.data.grounding_prompts import GroundedPrompt, PromptConfig, PromptSampler, clean_name
from models.data.images import DataError, PictureBytes
from models.data.records import DetectionRecord, GroundingRecord, Region
from models.tokenizers import small_wordpiece, text_rules
from server.contract.text import PromptTokenizer

NAMES = ("cat", "dog", "fire hydrant", "sports_car", "bow (weapon)", "bow (ribbon)", "a hot dog", "bird")
PICTURE = PictureBytes(b"", "")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("words") / "tokenizer.json"
    words = " ".join(NAMES).replace("_", " ").replace("(", "").replace(")", "")
    small_wordpiece([*words.split(), "and", "his", "man", "a"]).save(str(file))
    return file


def sampler(file: Path, *, tokens: int = 64, attention: str = "label", **options) -> PromptSampler:
    rules = text_rules(file, "phrases", max_tokens=tokens, attention=attention)
    return PromptSampler(PromptTokenizer(file, rules), tokens, PromptConfig(**options))


def detection(*labels: int, absent: tuple[int, ...] | None = None) -> DetectionRecord:
    boxes = box_array([[place, 0, place + 5, 9] for place in range(len(labels))])
    return DetectionRecord(PICTURE, boxes, np.asarray(labels, np.int64), NAMES, "set: image 7", absent=absent)


def grounding(caption: str, *phrases: str) -> GroundingRecord:
    regions = tuple(
        Region(((start, start + len(phrase)),), box_array([[place, 0, place + 5, 9]]))
        for place, phrase in enumerate(phrases)
        for start in [caption.index(phrase)]
    )
    return GroundingRecord(PICTURE, caption, regions, "set: line 3")


def ask(made: PromptSampler, record: DetectionRecord | GroundingRecord, seed: int = 0) -> GroundedPrompt:
    boxes = (
        record.boxes_xyxy
        if isinstance(record, DetectionRecord)
        else np.concatenate([region.boxes_xyxy for region in record.regions] or [np.zeros((0, 4), np.float32)])
    )
    return made.sample(record, boxes, np.arange(len(boxes)), np.random.default_rng(seed))


def texts(asked: GroundedPrompt) -> list[str]:
    return [label.text for label in asked.prompt.labels]


def named(asked: GroundedPrompt, row: int) -> str:
    """The label whose tokens are those of a box."""
    (label,) = {int(owner) for owner in asked.prompt.token_label[asked.positive[row]]}
    return asked.prompt.labels[label].text


def test_a_detection_record_becomes_a_prompt_of_its_categories_and_random_others(file: Path):
    asked = ask(sampler(file, full=1.0), detection(1, 0, 1))
    assert set(texts(asked)) == {clean_name(name) for name in NAMES}
    assert [named(asked, row) for row in range(3)] == ["dog", "cat", "dog"]
    assert len(asked.labels) == len(texts(asked))


def test_labels_stand_in_random_order(file: Path):
    orders = {tuple(texts(ask(sampler(file), detection(1), seed))) for seed in range(20)}
    assert len(orders) > 10


def test_half_of_the_prompts_have_a_random_number_of_others(file: Path):
    counts = [
        len(texts(ask(sampler(file, negatives=4, clean_names=False), detection(0), seed))) - 1 for seed in range(200)
    ]
    assert set(counts) == {1, 2, 3, 4}
    assert 100 < counts.count(4) < 160


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(8, 40), labels=st.lists(st.integers(0, 7), min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_prompts_keep_to_the_token_limit_and_every_box_to_its_label(file: Path, tokens: int, labels, seed: int):
    asked = ask(sampler(file, tokens=tokens), detection(*labels), seed)
    assert len(asked.prompt) <= tokens
    for row, box in enumerate(asked.boxes_xyxy):
        assert named(asked, row) == clean_name(NAMES[labels[int(box[0])]])


def test_present_categories_come_before_absent_ones_where_room_is_short(file: Path):
    asked = ask(sampler(file, tokens=8, full=1.0), detection(0, 1, 7))
    assert set(texts(asked)) == {"cat", "dog", "bird"}


def test_a_picture_without_objects_asks_for_absent_ones(file: Path):
    asked = ask(sampler(file), detection())
    assert texts(asked)
    assert asked.positive.shape == (0, len(asked.prompt))


def test_only_categories_known_to_be_absent_are_asked_for(file: Path):
    for seed in range(10):
        asked = ask(sampler(file), detection(0, absent=(2, 7)), seed)
        assert set(texts(asked)) <= {"cat", "fire hydrant", "bird"}


def test_a_category_cut_off_is_not_asked_for_as_absent(file: Path):
    record = detection(0, 1)
    asked = sampler(file, full=1.0).sample(record, record.boxes_xyxy[:1], np.asarray([0]), np.random.default_rng(0))
    assert "dog" not in texts(asked)
    assert "cat" in texts(asked)


def test_names_lose_brackets_and_underscores_and_equal_ones_are_one_label(file: Path):
    asked = ask(sampler(file, full=1.0), detection(4, 5, 3))
    assert texts(asked).count("bow") == 1
    assert [named(asked, row) for row in range(3)] == ["bow", "bow", "sports car"]
    kept = ask(sampler(file, full=1.0, clean_names=False), detection(4))
    assert "bow (weapon)" in texts(kept)


@pytest.mark.parametrize("attention", ["label", "prompt"])
def test_a_caption_stays_and_its_phrases_name_their_boxes(file: Path, attention: str):
    record = grounding("a man and his hot dog. a bird", "a man", "hot dog", "bird")
    asked = ask(sampler(file, attention=attention), record)
    assert [label.text for label in asked.prompt.labels] == ["a man and his hot dog", "a bird"]
    prompt = asked.prompt
    for row, words in enumerate(("a man", "hot dog", "bird")):
        owners = prompt.token_label[asked.positive[row]]
        spans = prompt.token_span[asked.positive[row]]
        label = prompt.labels[owners[0]].text
        assert label[spans[:, 0].min() : spans[:, 1].max()] == words


def test_a_phrase_does_not_take_the_letters_of_others(file: Path):
    asked = ask(sampler(file), grounding("a hot dog and a dog", "a hot dog"))
    assert asked.positive.sum() == 3


def test_a_box_of_two_phrases_is_one_with_the_tokens_of_both(file: Path):
    caption = "a man and his dog"
    box = box_array([[0, 0, 5, 5]])
    record = GroundingRecord(PICTURE, caption, (Region(((0, 5),), box), Region(((10, 13),), box)), "x")
    asked = ask(sampler(file), record)
    assert len(asked.boxes_xyxy) == 1
    assert asked.positive.sum() == 3


def test_a_caption_over_the_limit_becomes_its_phrases(file: Path):
    caption = "a man and his dog and his cat and his bird and a man"
    asked = ask(sampler(file, tokens=10), grounding(caption, "his dog", "his cat"))
    assert set(texts(asked)) == {"his dog", "his cat"}
    assert {named(asked, row) for row in range(2)} == {"his dog", "his cat"}
    with pytest.raises(DataError, match="set: line 3: the caption is longer than 10 tokens and has no phrase"):
        ask(sampler(file, tokens=10), grounding(caption))


def test_a_record_that_cannot_be_asked_for_is_named(file: Path):
    with pytest.raises(DataError, match="set: image 7"):
        ask(sampler(file), replace(detection(0), names=("",), labels=np.asarray([0])))


def test_a_share_of_prompts_names_nothing_that_is_present(file: Path):
    made = sampler(file, absent=0.4)
    prompts = [ask(made, detection(0, 1), seed) for seed in range(100)]
    silent = [asked for asked in prompts if not len(asked.boxes_xyxy)]
    assert 25 < len(silent) < 55
    assert not any({"cat", "dog"} & set(texts(asked)) for asked in silent)
    assert all({"cat", "dog"} <= set(texts(asked)) for asked in prompts if len(asked.boxes_xyxy))


def test_present_categories_are_named_with_a_probability(file: Path):
    made = sampler(file, asked=0.5)
    named_cats = sum("cat" in texts(ask(made, detection(0, 1), seed)) for seed in range(100))
    assert 35 < named_cats < 65


def test_where_nothing_is_absent_everything_present_is_named(file: Path):
    record = replace(detection(0), names=("cat",))
    for made in (sampler(file, absent=1.0), sampler(file, asked=0.0)):
        assert texts(ask(made, record)) == ["cat"]


def test_validation_asks_for_everything_present_or_for_nothing(file: Path):
    made = sampler(file, absent=0.5, asked=0.5, negatives=2)
    for seed in range(10):
        assert {"cat", "dog"} <= set(texts(ask(made.with_absent(0.0), detection(0, 1), seed)))
        assert ask(made.with_absent(1.0), detection(0, 1), seed).box_labels == ()


def test_boxes_come_with_the_label_that_names_them(file: Path):
    assert ask(sampler(file), detection(1, 0, 1)).box_labels == ("dog", "cat", "dog")
    assert ask(sampler(file), grounding("a man and his dog", "his dog")).box_labels is None


def test_a_phrase_without_boxes_has_its_tokens_among_the_labels(file: Path):
    record = grounding("a dog. a cat.", "a dog", "a cat")
    untrue = GroundingRecord(PICTURE, record.caption, (record.regions[0], Region(((7, 12),), box_array([]))), "x")
    asked = ask(sampler(file), untrue)
    assert len(asked.boxes_xyxy) == 1
    assert asked.labels.any(1).all()
    assert len(asked.labels) == 2
