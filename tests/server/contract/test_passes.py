"""A request in several passes: labels split whole, detections merged as if the model had read all at once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.tokenizers import standard_file
from server.contract.manifest import DetectionRules, TextRules
from server.contract.postprocess import PassOutput, Thresholds, detections, merged_detections
from server.contract.text import PromptTokenizer, PromptTooLong, caption_phrases

RULES = TextRules(style="phrases", max_tokens=16, start_id=101, end_id=102, pad_id=0, separator_ids=(1012, 1029))
TOKENIZERS = [
    PromptTokenizer(standard_file("bert_wordpiece"), RULES.model_copy(update={"attention": attention}))
    for attention in ("label", "prompt")
]
DETECTION = DetectionRules(box_threshold=0.3, text_threshold=0.2)
ALL_LABELS = DETECTION.model_copy(update={"labels_per_box": "all"})
LABEL = st.sampled_from(["dog", "a red car", "Dog", "fire hydrant", "a very small green bicycle", "key"])
HERE, NEARLY, THERE = (0.5, 0.5, 0.4, 0.4), (0.5, 0.5, 0.42, 0.4), (0.2, 0.2, 0.1, 0.1)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@given(labels=st.lists(LABEL, min_size=1, max_size=40))
def test_labels_are_split_whole_and_in_order_into_as_few_passes_as_hold_them(tokenizer, labels):
    passes = tokenizer.label_passes(labels, max_passes=100)
    assert [label.text for prompt in passes for label in prompt.labels] == labels
    for prompt, after in zip(passes, [*passes[1:], None], strict=True):
        own = labels[prompt.first_label :][: len(prompt.labels)]
        assert len(prompt) <= RULES.max_tokens
        assert prompt.key == tokenizer.from_labels(own).key, "asked alone it is the same prompt"
        if after is not None:
            assert after.first_label == prompt.first_label + len(own)
            with pytest.raises(PromptTooLong):
                tokenizer.from_labels([*own, labels[after.first_label]])


@given(labels=st.lists(LABEL, min_size=1, max_size=20))
def test_phrases_of_a_caption_keep_their_characters_in_every_pass(labels):
    caption = ". ".join(labels)
    passes = TOKENIZERS[0].passes(TOKENIZERS[0].tokenize(caption_phrases(caption)), max_passes=100)
    phrases = [phrase for prompt in passes for phrase in prompt.labels]
    assert [caption[phrase.start : phrase.end] for phrase in phrases] == labels


def test_label_that_no_pass_holds_is_named():
    with pytest.raises(PromptTooLong, match=r"label 'dog dog dog.* takes 15 tokens, the model reads 14"):
        TOKENIZERS[0].label_passes(["cat", "dog " * 14], max_passes=100)


def test_more_passes_than_allowed_are_refused_not_cut():
    with pytest.raises(PromptTooLong, match=r"of the 3 passes that they need at most 2 are run \(max_passes\)"):
        TOKENIZERS[0].label_passes(["dog"] * 15, max_passes=2)
    assert len(TOKENIZERS[0].label_passes(["dog"] * 15, max_passes=3)) == 3


def passed(*tables, boxes):
    """Outputs of passes of as many one-word labels as a table [N][labels] has columns, over `boxes` [N] each."""
    outputs, first = [], 0
    for table, places in zip(tables, boxes, strict=True):
        (prompt,) = TOKENIZERS[0].label_passes(["dog"] * len(table[0]), max_passes=1)
        scores = np.zeros((len(table), len(prompt)), np.float32)
        for label in range(len(table[0])):
            scores[:, prompt.token_label == label] = np.asarray(table, np.float32)[:, label : label + 1]
        prompt = replace(prompt, first_label=first)
        first += len(table[0])
        outputs.append(PassOutput(prompt, scores, np.asarray(places, np.float32).reshape(-1, 4)))
    return outputs


def merged(outputs, rules=DETECTION, **options):
    wanted = {name: options.pop(name) for name in list(options) if name != "with_label_scores"}
    thresholds = Thresholds(
        **{"box_threshold": 0.3, "text_threshold": 0.2, "nms_iou": None, "max_detections": 99} | wanted
    )
    return merged_detections(outputs, size=(100, 100), rules=rules, thresholds=thresholds, **options)


def found(*outputs, **options):
    return [(each.label_id, round(each.score, 3)) for each in merged(*outputs, **options)]


def test_label_ids_are_places_in_the_whole_request():
    outputs = passed([[0.5, 0.1]], [[0.1, 0.1, 0.9]], boxes=[[HERE], [THERE]])
    assert found(outputs) == [(4, 0.9), (0, 0.5)]


def test_what_two_passes_box_has_its_best_label_alone():
    outputs = passed([[0.5]], [[0.9]], boxes=[[HERE], [NEARLY]])
    assert found(outputs) == [(1, 0.9)]
    assert found(outputs, ALL_LABELS) == [(1, 0.9), (0, 0.5)]


def test_one_pass_may_box_a_thing_twice_as_ever():
    outputs = passed([[0.5, 0], [0, 0.6]], [[0.4]], boxes=[[HERE, NEARLY], [THERE]])
    assert found(outputs) == [(1, 0.6), (0, 0.5), (2, 0.4)]


def test_a_box_that_gave_way_hides_none():
    outputs = passed([[0.9]], [[0.8], [0.7]], boxes=[[HERE], [NEARLY, THERE]])
    assert found(outputs) == [(0, 0.9), (2 - 1, 0.7)]


def test_most_detections_are_counted_over_all_passes():
    outputs = passed([[0.5]], [[0.9]], [[0.7]], boxes=[[HERE], [THERE], [(0.8, 0.8, 0.1, 0.1)]])
    for rules in (DETECTION, ALL_LABELS):
        assert found(outputs, rules, max_detections=2) == [(1, 0.9), (2, 0.7)]
        assert found(outputs, rules, max_detections=2, nms_iou=0.5) == [(1, 0.9), (2, 0.7)]


def test_label_scores_of_another_pass_are_those_of_its_box_of_the_same_thing():
    outputs = passed([[0.5, 0.2]], [[0.1], [0.9]], boxes=[[HERE], [NEARLY, THERE]])
    there, here = merged(outputs, with_label_scores=True)
    assert here.label_scores == pytest.approx((0.5, 0.2, 0.1))
    assert there.label_scores == (None, None, pytest.approx(0.9))
    assert all(each.label_scores is None for each in merged(outputs))


scores = st.lists(st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3), min_size=1, max_size=6)


@pytest.mark.parametrize("rules", [DETECTION, ALL_LABELS])
@given(table=scores, other=scores, data=st.data())
def test_queries_below_the_threshold_change_nothing(rules, table, other, data):
    place = st.sampled_from([HERE, NEARLY, THERE, (0.8, 0.8, 0.1, 0.1)])
    boxes = [data.draw(st.lists(place, min_size=len(rows), max_size=len(rows))) for rows in (table, other)]
    outputs = passed(table, other, boxes=boxes)
    assert merged([output.above(0.3, rules) for output in outputs], rules, nms_iou=0.5) == merged(
        outputs, rules, nms_iou=0.5
    )


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        # The first two boxes overlap by 0.95, but have labels of their own.
        (DETECTION, [(1, 0.8, (30, 30, 70, 70)), (0, 0.6, (29, 30, 71, 70)), (1, 0.5, (15, 15, 25, 25))]),
        # Each box has both labels: the last keeps its second, the first one's gives way to the better box beside it.
        (
            ALL_LABELS,
            [
                (1, 0.8, (30, 30, 70, 70)),
                (0, 0.6, (29, 30, 71, 70)),
                (1, 0.5, (15, 15, 25, 25)),
                (0, 0.35, (15, 15, 25, 25)),
            ],
        ),
    ],
)
def test_one_pass_is_the_whole_answer(rules, expected):
    (output,) = passed([[0.4, 0.8], [0.6, 0.1], [0.35, 0.5]], boxes=[[HERE, NEARLY, THERE]])
    thresholds = Thresholds(box_threshold=0.3, text_threshold=0.2, nms_iou=0.5, max_detections=99)
    alone = detections(
        output.token_scores, output.boxes_cxcywh, output.prompt, size=(100, 100), rules=rules, thresholds=thresholds
    )
    assert [(each.label_id, each.label, each.score) for each in alone] == [
        (label, "dog", pytest.approx(score)) for label, score, _ in expected
    ]
    assert [each.box for each in alone] == [pytest.approx(box) for *_, box in expected]
    assert {each.matched for each in alone} == {((0, 3),)}, "the one word of each label"
